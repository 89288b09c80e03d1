"""RecBole without ray, and what is said where it is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.requirements import INSTALL, NEEDS, recbole_version, require_recbole


@pytest.fixture(autouse=True)
def _fresh():
    require_recbole.cache_clear()
    yield
    require_recbole.cache_clear()


def test_recbole_is_here():
    require_recbole()
    assert recbole_version() == "1.2.1"


@pytest.mark.parametrize(("version", "why"), [((3, 11), False), ((3, 12), True), ((3, 13), True)])
def test_a_missing_recbole_says_the_one_line_to_run(monkeypatch, version, why):
    info = type("V", (tuple,), {"major": version[0], "minor": version[1]})((*version, 0))
    monkeypatch.setattr("recbole_llm.requirements.sys.version_info", info)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "recbole" else find_spec(name))
    with pytest.raises(UserError, match="RecBole is not installed") as e:
        require_recbole()
    assert e.value.hint == "Run: pip install --no-deps recbole==1.2.1" == f"Run: {INSTALL}"
    assert (f"Python {version[0]}.{version[1]}" in e.value.message) == why


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr("recbole_llm.requirements.recbole_version", lambda: "1.1.1")
    with pytest.raises(UserError, match=r"RecBole 1\.1\.1 is installed"):
        require_recbole()


def test_a_missing_need_of_recbole_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    with pytest.raises(UserError, match="RecBole needs scikit-learn") as e:
        require_recbole()
    assert e.value.hint == "Run: pip install scikit-learn"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_recbole_needs_nothing_at_import_that_we_do_not_list():
    """What its packages import at the top, found by running them with ray gone, is what our metadata asks for."""
    out = run("""
import builtins, sys
sys.modules["ray"] = None
real, seen = builtins.__import__, set()
def watch(name, globals=None, locals=None, fromlist=(), level=0):
    who = str((globals or {}).get("__name__", ""))
    if who.split(".")[0] == "recbole" and level == 0:
        seen.add(name.split(".")[0])
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = watch
import recbole.config, recbole.data, recbole.trainer, recbole.evaluator, recbole.utils
import recbole.model.general_recommender, recbole.model.sequential_recommender
import recbole.data.dataset, recbole.data.dataloader, recbole.trainer.hyper_tuning
print(*sorted(seen - set(sys.stdlib_module_names) - {"recbole"}))
""")
    assert set(out.split()) == set(NEEDS)


def test_what_recbole_imports_later_is_asked_for_too():
    """Inside functions RecBole imports tensorboard (through torch), thop, plotly, psutil; or names an extra."""
    spec = find_spec("recbole")
    assert spec is not None and spec.origin is not None
    found = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        if "quick_start" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {n.split(".")[0] for n in names}
    optional = {"hyperopt", "lightgbm", "xgboost", "dgl", "torch_scatter", "torch_geometric", "faiss", "networkx",
                "community", "wandb", "kmeans_pytorch"}  # fmt: skip
    ours = set(NEEDS) | {"plotly", "thop", "psutil"}
    assert found - set(sys.stdlib_module_names) - {"recbole"} <= ours | optional


def test_our_bridge_runs_with_ray_gone():
    """With ``None`` in its place any import of ray, ours or RecBole's, raises."""
    run("import sys; sys.modules['ray'] = None; import recbole_llm.runner, recbole_llm.bridge.session")


def test_a_run_without_recbole_says_the_line(tmp_path):
    """A distribution that is not there, as on Python 3.12 after the first install."""
    hide = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'recbole' else real(n, *a)\n"
        "from recbole_llm.cli.run_recbole import main\n"
        "sys.exit(main(['--model=SASRec', '--dataset=ml-100k']))"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "pip install --no-deps recbole==1.2.1" in done.stderr and "Traceback" not in done.stderr
