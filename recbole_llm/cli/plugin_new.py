"""``recbole-llm plugin-new NAME``: a plugin that can be installed, tested and published as it stands."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.plugins import house

NAME = "plugin-new"
HELP = "write a publishable plugin with its contract test: encoder, generator, model, metric, dataset or reducer"

#: ``string.Template`` texts, in which a ``$$`` is one dollar sign.
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Kind:
    """What is written for one kind of plugin.

    Attributes:
        what: what it is.
        use: a command that uses it.
        contract: module and class of :mod:`recbole_llm.testing` that test it.
        body: what its test class says.
        files: path in the project → template, besides those that every plugin has.
    """

    what: str
    use: str
    contract: tuple[str, str]
    body: str
    files: dict[str, str]


KINDS = {
    "encoder": Kind(
        "A text encoder",
        "run_recbole --model=SemNISER --dataset=ml-100k --text_encoder=$name",
        ("encoders", "EncoderContract"),
        '    encoder_class = $Class\n    changes = {"width": 32}',
        {"$module/plugin.py": "encoder.py"},
    ),
    "generator": Kind(
        "A text generator",
        "recbole-llm generate ml-100k --recipe lamar --text_generator=$name",
        ("generators", "GeneratorContract"),
        '    generator_class = $Class\n    changes = {"prefix": "so: "}',
        {"$module/plugin.py": "generator.py"},
    ),
    "model": Kind(
        "A session encoder",
        "run_recbole --model=$Class --dataset=ml-100k",
        ("session_encoders", "SessionEncoderContract"),
        '    encoder_cls = $Class\n    config = {"embedding_size": 16}',
        {
            "$module/plugin.py": "model_plugin.py",
            "$module/model.py": "model.py",
            "$module/yaml/model/$Class.yaml": "model.yaml",
        },
    ),
    "metric": Kind(
        "A metric",
        "run_recbole --model=NISER --dataset=ml-100k --metrics=\"['Recall','$metric']\"",
        ("metrics", "MetricContract"),
        "    metric_class = $Class",
        {"$module/plugin.py": "metric.py"},
    ),
    "dataset": Kind(
        "A dataset",
        "run_recbole --model=NISER --dataset=$name",
        ("converters", "ConverterContract"),
        (TEMPLATES / "converter_test.txt").read_text(encoding="utf-8").rstrip(),
        {"$module/plugin.py": "dataset.py", "$module/yaml/dataset/$name.yaml": "dataset.yaml"},
    ),
    "reducer": Kind(
        "A reducer of text vectors",
        "run_recbole --model=SemNISER --dataset=ml-100k --text_reducer=$name --text_dim=64",
        ("reducers", "ReducerContract"),
        "    reducer_class = $Class",
        {"$module/plugin.py": "reducer.py"},
    ),
}
#: What every plugin has; no template is an empty file.
ALWAYS = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$module/__init__.py": "",
    "$module/py.typed": "",
    "tests/test_contract.py": "test_contract.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the distribution and of what it registers: my-signals")
    parser.add_argument("--kind", choices=list(KINDS), default="encoder", help="default: encoder")
    parser.add_argument("--dir", type=Path, default=Path(), help="folder that gets the new folder NAME; default: here")


def main(args: argparse.Namespace) -> int:
    folder = write(args.name, args.kind, args.dir)
    steps = (f"cd {folder}", "pip install -e '.[test]'", "pytest", f"recbole-llm plugins --kind {args.kind}")
    print("\n  ".join([f"{folder} is written. Next:", *steps]))
    return 0


def write(name: str, kind: str, parent: Path) -> Path:
    """Writes the plugin into ``parent/name`` and returns that folder.

    Raises:
        UserError: the name is none or is taken, or the folder exists; nothing is written then.
    """
    names = spelt(name, kind)
    folder = parent.expanduser().resolve() / name
    if folder.exists():
        raise UserError(f"{folder} exists already.", "Choose another name, or another place with --dir.")
    said = KINDS[kind]
    values = {
        **names,
        "kind": kind,
        "what": said.what,
        "version": recbole_llm.__version__,
        "where": "model" if kind == "model" else "plugin",
        "Contract": said.contract[1],
        "contracts": "\n".join(
            f"from recbole_llm.testing.{module} import {contract}"
            for module, contract in sorted([said.contract, ("plugins", "PluginContract")])
        ),
    }
    values["use"] = Template(said.use).substitute(values)
    values["body"] = Template(said.body).substitute(values)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            for path, template in {**ALWAYS, **said.files}.items():
                target = workshop / Template(path).substitute(values)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8") if template else ""
                target.write_text(Template(text).substitute(values), encoding="utf-8")
            workshop.chmod(0o755)
            os.replace(workshop, folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as e:
        raise UserError(f"Cannot write {folder}: {e.strerror or e}.", "Choose another place with --dir.") from e
    return folder


def spelt(name: str, kind: str) -> dict[str, str]:
    """``name`` as a distribution (``my-signals``), a module (``my_signals``), a class (``MySignals``) and a metric.

    Raises:
        UserError: it cannot be those, or somebody has it already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UserError(
            f"'{name}' cannot name a plugin.", "Use lower-case words joined by hyphens, such as my-signals."
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UserError(f"A Python module named '{module}' exists already.", "Choose another name.")
    found = {
        "name": name,
        "module": module,
        "Class": "".join(w.capitalize() for w in name.split("-")),
        "metric": module,
    }
    registered = {"model": found["Class"], "metric": module}.get(kind, name)
    plugins = house()
    if plugins.registry.has(kind, registered):
        owner = plugins.registry.entry(kind, registered).owner
        raise UserError(f"The {kind} '{registered}' belongs to {owner}.", "Choose another name.")
    if name in plugins.plugins:
        owner = plugins.plugins[name].distribution
        raise UserError(f"A plugin named '{name}' is installed already, with {owner}.", "Choose another name.")
    return found
