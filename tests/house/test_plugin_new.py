"""A plugin written by `recbole-llm plugin-new`: installed by pip, tested by its own tests, listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from recbole_llm.cli.main import main
from recbole_llm.cli.plugin_new import KINDS

NAMES = {kind: f"try-{kind}" for kind in KINDS}
REGISTERED = {**NAMES, "model": "TryModel", "metric": "try_metric"}


def run(*command, cwd, **env):
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for kind, name in NAMES.items():
        assert main(["plugin-new", name, "--kind", kind, "--dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def site(written):
    """All of them installed by pip into one folder."""
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--target", written / "site", *(written / n for n in NAMES.values()), cwd=written)
    return written / "site"


def test_every_kind_passes_its_own_contract_test(written, site):
    tests = [written / name / "tests" for name in NAMES.values()]
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--junitxml", "report.xml",
              *tests, cwd=written, PYTHONPATH=str(site), OMP_NUM_THREADS="1")  # fmt: skip
    report = (written / "report.xml").read_text()
    for kind, spec in KINDS.items():
        assert report.count(f"TestTry{kind.capitalize()}") >= 5, f"{spec.contract[1]} did not run: {out}"


def test_every_kind_is_listed(written, site):
    listed = json.loads(run("-m", "recbole_llm.cli.main", "plugins", "--json", cwd=written, PYTHONPATH=str(site)))
    found = {e["kind"]: e for e in listed["entries"] if e["distribution"].startswith("try-")}
    for kind, name in REGISTERED.items():
        assert (found[kind]["name"], found[kind]["distribution"]) == (name, f"{NAMES[kind]} 0.1.0")
    assert {p["state"] for p in listed["plugins"]} == {"ok"}


def test_what_is_written_is_in_good_style(written):
    ruff = ("-m", "ruff", "--isolated", "--quiet")
    for name in NAMES.values():
        where = written / name
        run(*ruff, "check", "--line-length", "120", "--select", "E,F,I,UP,B,W,C4,SIM", "--exclude", "build", cwd=where)
        run(*ruff, "format", "--line-length", "120", "--check", "--exclude", "build", cwd=where)
        for path in where.rglob("*.*"):
            assert not path.is_file() or "build" in path.parts or "$" not in path.read_text(), path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["My_Signals"], "'My_Signals' cannot name a plugin"),
        (["-x"], None),
        (["../evil"], "'../evil' cannot name a plugin"),
        (["numpy"], "A Python module named 'numpy' exists already"),
        (["json"], "A Python module named 'json' exists already"),
        (["class"], "A Python module named 'class' exists already"),
        (["hashing"], "The encoder 'hashing' belongs to hashing (recbole-llm"),
        (["builtin", "--kind", "metric"], "A plugin named 'builtin' is installed already"),
        (["ndcg", "--kind", "metric"], "The metric 'ndcg' belongs to builtin"),
        (["here-already"], "here-already exists already"),
        (["fine", "--dir", "file.txt"], "Cannot write"),
    ],
)
def test_names_and_places_that_cannot_be(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here-already").mkdir()
    (tmp_path / "file.txt").touch()
    if said is None:
        with pytest.raises(SystemExit) as e:
            main(["plugin-new", *arguments])
        assert e.value.code == 2
    else:
        assert main(["plugin-new", *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"here-already", "file.txt"}


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "recbole_llm.cli.plugin_new.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    assert main(["plugin-new", "some-name", "--dir", str(tmp_path)]) == 2
    assert "No space" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
