"""The house rules, read from the source: imports run one way, one room touches RecBole, nothing dangerous is called."""

from __future__ import annotations

import ast
import collections
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm.plugin_checks import HOOKS

ROOT = Path(__file__).parents[2]
PACKAGE, PLUGINS = ROOT / "recbole_llm", ROOT / "plugins"

HOUSE = {
    "errors", "files", "hookspecs", "locks", "paths", "plugin_checks", "plugins", "registry", "requirements",
    "settings", "values",
}  # fmt: skip
#: room → rooms it may import from, besides itself. DESIGN: cli → runner → {…} → lm → text → house.
MAY_IMPORT = {
    "house": set(),
    "text": {"house"},
    "datasets": {"text", "house"},
    "metrics": {"house"},
    "lm": {"text", "house"},
    "models": {"lm", "text", "house"},
    "evidence": {"metrics", "datasets", "text", "house"},
    "bridge": {"evidence", "models", "metrics", "datasets", "lm", "text", "house"},
    "runner": {"bridge", "evidence", "models", "metrics", "datasets", "lm", "text", "house"},
    "tuning": {"runner", "bridge", "evidence", "models", "metrics", "datasets", "lm", "text", "house"},
    "cli": {"tuning", "runner", "bridge", "evidence", "models", "metrics", "datasets", "lm", "text", "house"},
    "testing": {"runner", "bridge", "evidence", "models", "metrics", "datasets", "lm", "text", "house"},
}
#: rooms that import nothing heavy when they are imported
LIGHT = {"house", "text", "datasets", "metrics", "cli"}
LIGHT_PACKAGES = {"numpy", "scipy", "pandas", "yaml", "tqdm", "pluggy", "recbole_llm", "recbole_llm_plugins"}
#: files longer than 300 lines that still tell one story, and why
LONG: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One imported module, as ``from module import name`` (``name`` empty for ``import module``)."""

    module: str
    name: str
    line: int
    top: bool


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def imports(module: ast.Module) -> Iterator[Import]:
    """Every import that runs, ``import_module("…")`` included; those for type checkers are left out."""

    def walk(node: ast.AST, top: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, top)
            return
        if isinstance(node, ast.Import):
            for a in node.names:
                yield Import(a.name, "", node.lineno, top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import, line {node.lineno}: write the full name"
            for a in node.names:
                yield Import(node.module or "", a.name, node.lineno, top)
        elif isinstance(node, ast.Call) and _imports_by_name(node):
            yield Import(str(getattr(node.args[0], "value", "")), "", node.lineno, top)
        inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner)

    yield from walk(module, True)


def _imports_by_name(call: ast.Call) -> bool:
    name = ast.unparse(call.func).split(".")[-1]
    return name in ("import_module", "__import__") and bool(call.args) and isinstance(call.args[0], ast.Constant)


def room_of(module: str) -> str:
    """The room of a dotted module of ours."""
    parts = module.split(".")
    if len(parts) == 1:
        return "house"
    return "house" if parts[1] in HOUSE else parts[1]


def rooms_of(found: Import) -> Iterator[str]:
    """The room an import of ours reaches; public names count as the module that holds them."""
    if found.module == "recbole_llm" and found.name in recbole_llm._WHERE:
        yield room_of(recbole_llm._WHERE[found.name])
    elif found.module == "recbole_llm" and found.name and (PACKAGE / found.name).with_suffix(".py").exists():
        yield room_of(f"recbole_llm.{found.name}")
    elif found.module == "recbole_llm" and found.name and (PACKAGE / found.name).is_dir():
        yield found.name
    else:
        yield room_of(found.module)


def sources(*folders: Path) -> list[Path]:
    return sorted(p for f in folders for p in f.rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OURS = sources(PACKAGE)
ids = [str(p.relative_to(ROOT)) for p in OURS]
EVERYTHING = sources(PACKAGE, PLUGINS, ROOT / "benchmarks")


@pytest.mark.parametrize("path", OURS, ids=ids)
def test_imports_run_one_way(path):
    module = name_of(path)
    if module == "recbole_llm":
        return  # loads its public names on first use
    room = room_of(module)
    assert room in MAY_IMPORT, f"{module} stands in no room: give it one in MAY_IMPORT, or a place in HOUSE"
    wrong = [
        f"line {i.line}: {i.module} {i.name}"
        for i in imports(tree(path))
        if i.module.split(".")[0] == "recbole_llm"
        for target in rooms_of(i)
        if target not in MAY_IMPORT[room] | {room}
    ]
    assert not wrong, f"{module} ({room}) may import from {sorted(MAY_IMPORT[room])} only"


@pytest.mark.parametrize("path", OURS, ids=ids)
def test_one_room_touches_recbole(path):
    """Models may subclass RecBole's networks; everything else of RecBole belongs to the bridge."""
    room = room_of(name_of(path))
    for i in imports(tree(path)):
        if i.module.split(".")[0] != "recbole":
            continue
        assert room in ("bridge", "models"), f"line {i.line}: {room} imports {i.module}"
        assert not i.module.startswith("recbole.quick_start"), f"line {i.line}: quick_start imports ray"
        if room == "models":
            assert i.module.startswith(("recbole.model", "recbole.utils")), f"line {i.line}: {i.module}"


@pytest.mark.parametrize("path", OURS, ids=ids)
def test_light_rooms_import_nothing_heavy_at_the_top(path):
    if room_of(name_of(path)) not in LIGHT:
        return
    heavy = {
        i.module
        for i in imports(tree(path))
        if i.top and i.module.split(".")[0] not in LIGHT_PACKAGES | set(sys.stdlib_module_names)
    }
    assert not heavy


@pytest.mark.parametrize("path", sources(PLUGINS), ids=lambda p: p.name)
def test_bundled_plugins_use_the_public_door(path):
    """They are examples of what anybody can write, so nothing private and nothing heavy at the top."""
    for i in imports(tree(path)):
        package = i.module.split(".")[0]
        if package == "recbole_llm" and path.name != "builtin.py":  # that one registers the house's own things
            assert i.module == "recbole_llm" and i.name in recbole_llm._WHERE, f"line {i.line}: {i.module} {i.name}"
        if i.top:
            assert package in LIGHT_PACKAGES | set(sys.stdlib_module_names), f"line {i.line}: {i.module} at the top"


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_dangerous(path):
    """No ray, no pickle, no eval, no code from a model hub, no file read as a pickle in disguise."""
    module = tree(path)
    for i in imports(module):
        package = i.module.split(".")[0]
        assert package not in {"ray", "pickle", "dill", "cloudpickle", "shelve", "marshal"}, (
            f"line {i.line}: {i.module}"
        )
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        called, where = ast.unparse(node.func), f"{path.name}, line {node.lineno}"
        keywords = {k.arg: k.value for k in node.keywords}
        on = {k for k, v in keywords.items() if isinstance(v, ast.Constant) and v.value is True}
        assert called not in ("eval", "exec", "os.system"), where
        assert not on & {"trust_remote_code", "allow_pickle", "shell"}, where
        assert called not in ("yaml.unsafe_load", "yaml.full_load", "torch.hub.load"), where
        if called == "yaml.load":
            assert "Loader" in keywords, where
        if called == "torch.load":
            assert "weights_only" in keywords, f"{where}: say weights_only"


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_recbole_is_never_patched(path):
    """No attribute of a module or class imported from RecBole is assigned."""
    module = tree(path)
    theirs = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "recbole":
            theirs |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.Import):
            theirs |= {a.asname or "recbole" for a in node.names if a.name.split(".")[0] == "recbole"}
    for node in ast.walk(module):
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else []
        if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        for target in targets:
            root = target
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            patched = isinstance(target, (ast.Attribute, ast.Subscript)) and getattr(root, "id", None) in theirs
            assert not patched, f"line {target.lineno}: {ast.unparse(target)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            assert ast.unparse(node.args[0]).split(".")[0] not in theirs, f"line {node.lineno}"


@pytest.mark.parametrize(
    "code",
    [
        "import recbole_llm",
        "import recbole_llm.cli.main, recbole_llm.settings, recbole_llm.requirements",
        "from recbole_llm import UserError, hookimpl, HOOK_API, TextEncoder, Converter, Metric, Reducer, Recipe",
        "from recbole_llm.cli.main import main; main(['plugins', '--json'])",
        "from recbole_llm.cli.main import main; main(['--help'])",
        "from recbole_llm.plugins import house; assert all(p.state == 'ok' for p in house().plugins.values())",
    ],
)
def test_light_moves_import_nothing_heavy(code):
    check = (
        "import sys; heavy = {'torch', 'recbole', 'transformers', 'sentence_transformers', 'ray', 'openai'} "
        "& set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    for name, module in recbole_llm._WHERE.items():
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
        assert getattr(recbole_llm, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError):
        _ = recbole_llm.no_such_name


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_every_hook_is_documented_and_tested(hook):
    assert f"## `{hook}`" in (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    tests = [(ROOT / "tests" / "house" / f"test_{n}.py").read_text("utf-8") for n in ("plugins", "broken_plugins")]
    assert any(f"def {hook}(" in t for t in tests)


def test_nothing_shadows_pyyaml():
    """``yaml/`` lies on ``sys.path`` when a command runs from the checkout: with an ``__init__.py`` it would win."""
    assert not list((ROOT / "yaml").rglob("*.py"))


def test_test_files_have_unique_names():
    counts = collections.Counter(p.name for p in (ROOT / "tests").rglob("test_*.py") if "fixtures" not in p.parts)
    assert [n for n, c in counts.items() if c > 1] == []


def test_files_tell_one_story():
    for path in EVERYTHING:
        lines, name = path.read_text(encoding="utf-8").count("\n"), str(path.relative_to(ROOT))
        if lines > 300 and name not in LONG:
            warnings.warn(f"{name} has {lines} lines; does it still tell one story?", stacklevel=1)
        assert lines <= 400 or name in LONG, f"{name} has {lines} lines"


def test_the_rules_can_fail(tmp_path):
    """Each reader above sees what it must see."""
    path = tmp_path / "bad.py"
    path.write_text("import importlib\ndef f():\n    import torch\n    importlib.import_module('ray.tune')\n")
    found = {(i.module, i.top) for i in imports(tree(path))}
    assert found == {("importlib", True), ("torch", False), ("ray.tune", False)}
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import numpy\n")
    assert {i.module for i in imports(tree(path))} == {"typing", "numpy"}
    for code in ("eval('1')", "import pickle", "np.load(f, allow_pickle=True)", "import ray", "torch.load(f)"):
        path.write_text(code)
        with pytest.raises(AssertionError):
            test_nothing_dangerous(path)
    for code in ("import recbole.data as d\nd.x = 1", "from recbole.config import Config\nsetattr(Config, 'a', 1)"):
        path.write_text(code)
        with pytest.raises(AssertionError):
            test_recbole_is_never_patched(path)
