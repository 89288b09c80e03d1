"""The wheel: built, installed into an empty environment, used from another folder; and a plugin installed by pip."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
RUN_RECBOLE = (sys.executable, "-c", "import sys; from recbole_llm.cli.run_recbole import main; sys.exit(main())")
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "recbole_llm", "plugins", "yaml")


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RECBOLE_LLM_HOME", "RECBOLE_LLM_DISABLE")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Our wheel, built through an sdist, so that the sdist is whole too."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    source.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=leave)
        else:
            shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", source, cwd=work)
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory):
    """An environment that holds our wheel and nothing else; our requirements are borrowed from this one.

    A folder named in a ``.pth`` file is searched, but its own ``.pth`` files are not read: the editable installation
    of this checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=home)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).stdout.strip()
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def script(python: Path, name: str) -> Path:
    return python.with_name(name)


def test_the_wheel_holds_everything_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as z:
        inside = {n for n in z.namelist() if ".dist-info/" not in n}
        info = {n.split("/", 1)[1] for n in z.namelist() if ".dist-info/" in n}
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "recbole_llm").rglob("*.py")} | {"recbole_llm/py.typed"}
    ours |= {str(p.relative_to(ROOT)) for p in (ROOT / "recbole_llm" / "cli" / "templates").glob("*.txt")}
    ours |= {f"recbole_llm_plugins/{p.name}" for p in (ROOT / "plugins").glob("*.py")}
    ours |= {f"recbole_llm/{p.relative_to(ROOT)}" for p in (ROOT / "yaml").rglob("*.yaml")}
    assert {n.split("/")[0] for n in inside} == {"recbole_llm", "recbole_llm_plugins"}
    assert inside == ours
    assert "licenses/LICENSE" in info


def test_it_runs_from_another_folder(environment, tmp_path):
    where = run(
        environment,
        "-c",
        "import recbole_llm, recbole_llm_plugins; from recbole_llm import paths;"
        "print(recbole_llm.__file__, recbole_llm_plugins.__file__, paths.yaml_dir(), sep='\\n')",
        cwd=tmp_path,
    ).stdout.split()
    home = environment.parent.parent.resolve()
    assert all(home in Path(p).resolve().parents for p in where), where
    listed = json.loads(run(script(environment, "recbole-llm"), "plugins", "--json", cwd=tmp_path).stdout)
    assert {p["state"] for p in listed["plugins"]} == {"ok"}
    assert {"minilm", "amazon-beauty", "SemNISER", "pca", "ndcg"} <= {e["name"] for e in listed["entries"]}
    assert "usage: run_recbole" in run(script(environment, "run_recbole"), "--help", cwd=tmp_path).stdout
    assert "Commands:" in run(script(environment, "recbole-llm"), "--help", cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_named_yaml_beside_the_user_does_not_break_it(environment, tmp_path):
    """The project's own ``yaml/`` folder lies in the current folder when a user works in a checkout."""
    (tmp_path / "yaml" / "model").mkdir(parents=True)
    run(environment, "-m", "recbole_llm.cli.main", "plugins", "--json", cwd=tmp_path)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed():
    listed = set(project()["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "recbole_llm").rglob("*.py")}
    assert listed == found | {"recbole_llm_plugins", "recbole_llm.yaml"}


def test_extras_and_python():
    p = project()["project"]
    assert set(p["optional-dependencies"]) >= {"offline", "openai", "tune", "report", "lora", "dev"}
    assert p["requires-python"] == ">=3.10"
    assert "recbole==1.2.1; python_version < '3.12'" in p["dependencies"]
    assert "pandas>=2,<3" in p["dependencies"] and "numpy>=1.26" in p["dependencies"]
    assert not any(d.startswith("ray") for d in p["dependencies"])


def test_the_constraints_pin_every_direct_requirement_and_name_no_place():
    p = project()["project"]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.M))
    pins = {k.lower().replace("_", "-"): v for k, v in pins.items()}
    wanted = [*p["dependencies"], *(d for extra in p["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[A-Za-z0-9._-]+", d)[0].lower() for d in wanted} - {"setuptools", "wheel"}
    assert names <= set(pins)
    assert "+" not in "".join(pins.values()), "a local version such as +cpu exists on one index only"
    assert not re.search(r"://|^-|file:|@", text, re.M)


FIXTURE = ROOT / "tests" / "fixtures" / "my-signals"


@pytest.fixture(scope="session")
def my_signals(tmp_path_factory):
    """The folder where pip has installed tests/fixtures/my-signals."""
    work = tmp_path_factory.mktemp("my-signals")
    shutil.copytree(FIXTURE, work / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", "--target", work / "site", work / "source", cwd=work)
    return work / "site"


def test_an_installed_plugin_is_listed(my_signals, tmp_path):
    done = run(sys.executable, "-m", "recbole_llm.cli.main", "plugins", "--json", cwd=tmp_path,
               PYTHONPATH=str(my_signals))  # fmt: skip
    listed = json.loads(done.stdout)
    mine = {(e["kind"], e["name"]) for e in listed["entries"] if e["distribution"] == "my-signals 0.3.0"}
    assert mine == {
        ("encoder", "my-encoder"),
        ("model", "MyModel"),
        ("dataset", "my-data"),
        ("metric", "mymetric"),
        ("config_dir", str(my_signals / "my_signals" / "yaml")),
    }
    (plugin,) = [p for p in listed["plugins"] if p["name"] == "my-signals"]
    assert plugin == {"name": "my-signals", "distribution": "my-signals 0.3.0", "state": "ok", "reason": ""}


def write_raw(project: Path) -> None:
    """Sixty users who walk along a ring of thirty goods."""
    raw = project / "dataset_atomic" / "my-data" / "raw"
    raw.mkdir(parents=True)
    goods = [f'i{i},"Good {i}, a {"red" if i % 2 else "blue"} thing"' for i in range(30)]
    (raw / "goods.csv").write_text("\n".join(["item,title", *goods]) + "\n")
    clicks = [f"u{u},i{(u * 7 + t) % 30},{t}" for u in range(60) for t in range(5 + u % 4)]
    (raw / "clicks.csv").write_text("\n".join(["user,item,time", *clicks]) + "\n")


BROKEN = """
from recbole_llm import hookimpl
HOOK_API = 1

@hookimpl
def register_models(register):
    register("BrokenModel", "somewhere:BrokenModel")
    raise OSError("no licence file")

@hookimpl
def register_encoders(register):
    pass
"""


@pytest.fixture
def broken(tmp_path):
    """A folder with an installed plugin that breaks while it registers."""
    site = tmp_path / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recbole_llm]\nbroken = broken\n")
    return site


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model=MyModel", "--metrics=['MyMetric']"),
        ("--model=SemNISER", "--metrics=['Recall','MyMetric']", "--text_width=16", "--text_ngram=2"),
    ],
    ids=["its model and metric", "its encoder in SemNISER"],
)
def test_an_installed_plugin_is_used_through_run_recbole(my_signals, broken, tmp_path, arguments):
    """Beside it a broken plugin is installed, which nobody asks for."""
    write_raw(tmp_path)
    run(*RUN_RECBOLE, *arguments, "--dataset=my-data",
        "--text_encoder=my-encoder", "--epochs=1", "--valid_metric=MyMetric@10", "--embedding_size=8",
        cwd=tmp_path, PYTHONPATH=os.pathsep.join([str(my_signals), str(broken)]), OMP_NUM_THREADS="1")  # fmt: skip
    (folder,) = (tmp_path / "saved").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert all("mymetric@10" in metrics for metrics in result["test"].values())  # both seen modes
    assert "mymetric@10" in (folder / "my-signals.txt").read_text(), "run_finished was not called"
    assert (tmp_path / "dataset_atomic" / "my-data" / "manifest.json").is_file()
    if arguments[0] == "--model=SemNISER":
        (store,) = (tmp_path / "dataset_atomic" / "my-data" / "vectors").iterdir()
        said = json.loads((store / "fingerprint.json").read_text())["fingerprint"]
        assert (said["width"], said["ngram"]) == (16, 2)


def test_blocking_it_makes_its_names_unknown(my_signals, tmp_path):
    done = subprocess.run(
        [*RUN_RECBOLE, "--model=SASRec", "--dataset=my-data"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(my_signals), "RECBOLE_LLM_DISABLE": "my-signals"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "my-data" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--model=BrokenModel",),
            "The model 'BrokenModel' comes with the plugin broken (broken 1.0), which is broken",
        ),
        (("--model=SemNISER", "--text_encoder=broken"), "broken (broken 1.0) is broken: OSError: no licence file"),
    ],
    ids=["by its model", "by its name"],
)
def test_a_broken_plugin_stops_the_run_that_asks_for_it(my_signals, broken, tmp_path, arguments, said):
    write_raw(tmp_path)
    done = subprocess.run(
        [*RUN_RECBOLE, *arguments, "--dataset=my-data", "--epochs=1"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(my_signals), str(broken)]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert said in done.stderr and "Traceback" not in done.stderr
