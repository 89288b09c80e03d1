"""``recbole-llm doctor``: what is installed, what is known to break, and what this machine offers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import recbole_llm
from recbole_llm import paths
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse, house
from recbole_llm.requirements import require_recbole

NAME = "doctor"
HELP = "check versions, known breakages, devices, folders, extras, plugins and vector stores"

VERSIONS = (
    "torch", "numpy", "scipy", "pandas", "scikit-learn", "recbole", "pluggy", "safetensors", "setuptools",
    "transformers", "sentence-transformers", "tokenizers", "peft", "openai", "hyperopt", "optuna",
)  # fmt: skip
#: Free space under which a run is likely to fail half way, in bytes.
LITTLE_SPACE = 1 << 30


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        state: ``ok``, ``note`` (worth knowing, breaks nothing) or ``bad`` (the user can and should mend it).
        hint: what to do about it.
    """

    group: str
    name: str
    state: str
    value: str
    hint: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")


def main(args: argparse.Namespace) -> int:
    """0 where nothing is bad, else 2."""
    checks = [*examine(house())]
    bad = [c for c in checks if c.state == "bad"]
    if args.json:
        print(json.dumps({"ok": not bad, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        print(report(checks))
    return 2 if bad else 0


def report(checks: list[Check]) -> str:
    """The list a person reads, a group a paragraph, what is bad once more at the end."""
    lines: list[str] = []
    group = None
    for c in checks:
        if c.group != group:
            lines += ["", c.group] if lines else [c.group]
            group = c.group
        mark = {"ok": "  ", "note": "- ", "bad": "! "}[c.state]
        lines.append(f"{mark}{c.name}: {c.value}")
        if c.hint:
            lines.append(f"    {c.hint}")
    bad = [c for c in checks if c.state == "bad"]
    lines += ["", f"{len(bad)} to mend: {', '.join(c.name for c in bad)}" if bad else "Nothing to mend."]
    return "\n".join(lines)


def examine(plugins: PluginHouse) -> Iterator[Check]:
    """Every check, in the order it is printed. A check that fails by itself is reported, not raised."""
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("versions", _versions),
        ("known breakages", _breakages),
        ("devices", _devices),
        ("folders", _folders),
        ("extras", _extras),
        ("plugins", lambda: _plugins(plugins)),
        ("vector stores", _stores),
    ]
    for group, part in parts:
        try:
            yield from part()
        except Exception as e:
            yield Check(group, group, "bad", f"could not be examined: {type(e).__name__}: {e}")


def version_of(distribution: str) -> tuple[int, ...] | None:
    """The numeric part of an installed version (``2.13.0+cpu`` → ``(2, 13, 0)``), ``None`` where there is none."""
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", found)[0]))


def _versions() -> Iterator[Check]:
    yield Check("versions", "recbole-llm", "ok", f"{recbole_llm.__version__} in {Path(recbole_llm.__file__).parent}")
    yield Check("versions", "python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")
    for name in VERSIONS:
        try:
            yield Check("versions", name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check("versions", name, "note", "not installed")


def _breakages() -> Iterator[Check]:
    group = "known breakages"
    torch, numpy, pandas = version_of("torch"), version_of("numpy"), version_of("pandas")
    setuptools, ray = version_of("setuptools"), version_of("ray")
    for name, version, wanted, holds in (
        ("torch", torch, "torch>=2.2", torch is not None and torch >= (2, 2)),
        ("numpy", numpy, "numpy>=1.26", numpy is not None and numpy >= (1, 26)),
        ("pandas", pandas, "pandas>=2,<3", pandas is not None and (2,) <= pandas < (3,)),
    ):
        why = " (pandas 3 breaks RecBole's reader silently)" if name == "pandas" else ""
        if not holds:
            said = ".".join(map(str, version)) if version else "not installed"
            yield Check(group, name, "bad", f"{said}; {wanted} is needed{why}", f"Run: pip install '{wanted}'")
    if torch and numpy and torch < (2, 3) and numpy >= (2,):
        yield Check(group, "torch with numpy 2", "bad", "torch before 2.3 cannot read arrays of numpy 2",
                    "Run: pip install 'numpy<2'")  # fmt: skip
    if numpy and numpy >= (2,):
        yield Check(group, "numpy 2", "ok", "RecBole's own Config fails on it; recbole-llm's restores the old names")
    if ray:
        why = (
            "imports pkg_resources, which setuptools 81 removed"
            if setuptools and setuptools >= (81,)
            else "is not used"
        )
        yield Check(
            group, "ray", "ok", f"installed and {why}: only recbole.quick_start needs it, recbole-llm never does"
        )
    try:
        require_recbole()
    except UserError as e:
        yield Check(group, "recbole", "bad", e.message, e.hint or "")
        return
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import recbole.config, recbole.data, recbole.trainer, recbole.evaluator, recbole.utils\n"
        "import recbole.model.sequential_recommender"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        yield Check(
            group, "recbole", "bad", f"cannot be imported: {last}", "Install what is missing, then run this again."
        )
    else:
        yield Check(group, "recbole", "ok", "config, data, model, trainer, evaluator and utils import without ray")


def _devices() -> Iterator[Check]:
    yield Check("devices", "cpu", "ok", f"{os.cpu_count()} cores, {_memory()}")
    try:
        torch = importlib.import_module("torch")
    except Exception as e:
        yield Check("devices", "torch", "bad", f"cannot be imported: {type(e).__name__}: {e}", "Reinstall torch.")
        return
    yield Check("devices", "torch threads", "ok", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield Check("devices", f"cuda:{i}", "ok", f"{p.name}, {p.total_memory / 2**30:.0f} GiB")
    else:
        why = (
            f"torch is built for CUDA {torch.version.cuda}, no device answers" if torch.version.cuda else "a CPU build"
        )
        yield Check("devices", "cuda", "note", f"none ({why})")
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        yield Check("devices", "mps", "ok", "available")


def _memory() -> str:
    try:
        memory = importlib.import_module("psutil").virtual_memory()
    except Exception:
        return "memory unknown"
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free"


def _folders() -> Iterator[Check]:
    shipped = paths.yaml_dir() / "overall.yaml"
    if shipped.is_file():
        yield Check("folders", "yaml", "ok", str(shipped.parent))
    else:
        yield Check(
            "folders", "yaml", "bad", f"{shipped} is missing", "Reinstall recbole-llm: its files are incomplete."
        )
    for variable in ("RECBOLE_LLM_HOME", "RECBOLE_LLM_RAW", "RECBOLE_LLM_SAFE_STORE"):
        if os.environ.get(variable):
            yield Check("folders", f"${variable}", "ok", os.environ[variable])
    root = paths.project_root()
    yield Check("folders", "project root", "ok", str(root))
    for name in (paths.ATOMIC, "saved", "log"):
        yield _writable(name, root / name)


def _writable(name: str, folder: Path) -> Check:
    """Whether a file can be made in ``folder``, or where it would be created. Leaves nothing behind."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as e:
        hint = "Change its permissions, or set RECBOLE_LLM_HOME to a folder you may write to."
        return Check("folders", name, "bad", f"cannot write to {there}: {e.strerror or e}", hint)
    value = f"{folder} ({'' if folder.exists() else 'created when needed, '}{free / 2**30:.1f} GiB free)"
    if free < LITTLE_SPACE:
        return Check("folders", name, "bad", value, "Free some space, or set RECBOLE_LLM_HOME to another disk.")
    return Check("folders", name, "ok", value)


def extras() -> dict[str, list[str]]:
    """The distributions each extra asks for, from our own metadata; ``dev`` left out."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("recbole-llm") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if extra and name and extra[1] != "dev":
            found.setdefault(extra[1], []).append(name[0])
    return found


def _extras() -> Iterator[Check]:
    for extra, needed in extras().items():
        missing = [n for n in needed if version_of(n) is None]
        if missing:
            yield Check("extras", extra, "note", f"lacks {', '.join(missing)}", f"pip install 'recbole-llm[{extra}]'")
        else:
            yield Check("extras", extra, "ok", ", ".join(needed))


def _plugins(plugins: PluginHouse) -> Iterator[Check]:
    for p in plugins.plugins.values():
        if p.state != "ok":
            yield Check("plugins", p.name, "bad" if p.state == "broken" else "note", f"{p.state}: {p.reason}",
                        f"It comes with {p.distribution}.")  # fmt: skip
    for name in sorted(plugins.idle):
        yield Check("plugins", f"RECBOLE_LLM_DISABLE={name}", "bad", "no plugin is called so, nothing is blocked by it",
                    "`recbole-llm plugins` lists them.")  # fmt: skip
    loaded = 0
    for entry in plugins.registry:
        try:
            plugins.get(entry.kind, entry.name)
            loaded += 1
        except UserError as e:
            yield Check("plugins", f"{entry.kind} {entry.name}", "bad", e.message, e.hint or "")
    whole = sum(p.state == "ok" for p in plugins.plugins.values())
    yield Check("plugins", "registered", "ok", f"{loaded} names of {whole} plugins load")


def _stores() -> Iterator[Check]:
    from recbole_llm.text.vector_store import VECTORS, VectorStore

    for said in sorted(paths.atomic_root().glob(f"*/{VECTORS}/*/fingerprint.json")):
        name = f"{said.parents[2].name}/{said.parent.name}"
        try:
            document = json.loads(said.read_text(encoding="utf-8"))
            store = VectorStore(said.parents[2], document["encoder"], document["fingerprint"])
            moved = "" if store.path == said.parent else " (its folder's name is another fingerprint's)"
            yield Check(
                "vector stores", name, "bad" if moved else "ok", f"{len(store)} vectors of width {store.dim}{moved}"
            )
        except UserError as e:
            yield Check("vector stores", name, "bad", e.message, e.hint or "")
        except (OSError, ValueError, KeyError, TypeError) as e:
            hint = f"Run: recbole-llm cache verify {said.parents[2].name}"
            yield Check("vector stores", name, "bad", f"fingerprint.json cannot be read: {e}", hint)
