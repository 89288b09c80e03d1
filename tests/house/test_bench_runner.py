"""What `make bench` reports and when it fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("bench_run", Path(__file__).parents[2] / "benchmarks" / "run.py")
assert SPEC is not None and SPEC.loader is not None
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)

GOOD = "def main():\n    return {{'{name}': dict(ours=2.0, peer=20.0, unit='ms', ratio={ratio}, equal={equal})}}\n"


@pytest.fixture
def folder(tmp_path):
    def write(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        return tmp_path

    return write


def good(name="a", ratio=10.0, equal=True):
    return GOOD.format(name=name, ratio=ratio, equal=equal)


def test_one_table_and_one_file(folder, capsys):
    where = folder(one=good("a"), two="from helper import x\n" + good("b"), helper="x = 1")
    assert bench.main([], where) == 0
    out = capsys.readouterr().out
    assert "a  " in out and "b  " in out and out.count("new") == 2 and "helper" not in out
    latest = json.loads((where / "latest.json").read_text())
    assert latest["a"] == {"ours": 2.0, "peer": 20.0, "unit": "ms", "ratio": 10.0, "equal": True}
    assert not (where / "recorded.json").exists()


@pytest.mark.parametrize(
    ("row", "said", "code"),
    [
        (good(ratio=6.1), "ok", 0),
        (good(ratio=5.9), "LOST, was 10", 1),
        (good(ratio=100.0, equal=False), "NOT EQUAL", 1),
        (good("other"), "MISSING", 1),
        ("def main():\n    raise ValueError('no peer here')", "FAILED: ValueError: no peer here", 1),
        ("def main():\n    return {}", "FAILED: main() returned no rows", 1),
        ("def main():\n    return {'a': {'ours': 1}}", "has no good peer, unit, ratio, equal", 1),
        ("import sys\ndef main():\n    sys.exit(9)", "FAILED: exit code 9", 1),
    ],
)
def test_what_fails_is_reported(folder, capsys, row, said, code):
    where = folder(one=row)
    (where / "recorded.json").write_text('{"a": {"ratio": 10.0}}')
    assert bench.main([], where) == code
    assert said in capsys.readouterr().out


def test_a_floor_fails_by_itself(folder, capsys):
    where = folder(one=good(ratio=49.0))
    (where / "recorded.json").write_text('{"a": {"ratio": 50.0, "floor": 50}}')
    assert bench.main([], where) == 1
    assert "UNDER ITS FLOOR 50" in capsys.readouterr().out


def test_a_failed_benchmark_leaves_the_others_and_is_no_old_number(folder):
    where = folder(one="def main():\n    1 / 0", two=good("b"))
    (where / "latest.json").write_text('{"a": {"ratio": 99}}')
    assert bench.main([], where) == 1
    assert set(json.loads((where / "latest.json").read_text())) == {"b"}


def test_one_benchmark_alone_keeps_the_others_numbers(folder):
    where = folder(one=good("a", 1.0), two=good("b"))
    bench.main([], where)
    (where / "one.py").write_text(good("a", 2.0))
    assert bench.main(["one"], where) == 0
    latest = json.loads((where / "latest.json").read_text())
    assert (latest["a"]["ratio"], latest["b"]["ratio"]) == (2.0, 10.0)


def test_recording_keeps_floors(folder):
    where = folder(one=good(ratio=12.3456))
    (where / "recorded.json").write_text('{"a": {"ratio": 10.0, "floor": 5}}')
    assert bench.main(["--record"], where) == 0
    assert json.loads((where / "recorded.json").read_text()) == {"a": {"floor": 5, "ratio": 12.3}}


def test_two_benchmarks_of_one_name(folder, capsys):
    where = folder(one=good("a"), two=good("a"))
    assert bench.main([], where) == 1
    assert "the name 'a' is another benchmark's" in capsys.readouterr().out


def test_an_unknown_name(folder):
    with pytest.raises(SystemExit) as e:
        bench.main(["three"], folder(one=good()))
    assert e.value.code == 2


def test_a_slow_benchmark_runs_by_name_or_when_all_are_asked_for(folder, capsys):
    where = folder(one=good("a"), two="SLOW = True\n" + good("b"))
    assert bench.main(["--record"], where) == 0
    assert set(json.loads((where / "recorded.json").read_text())) == {"a"}
    assert bench.main(["two", "--record"], where) == 0
    assert json.loads((where / "recorded.json").read_text())["b"] == {"ratio": 10.0, "slow": True}
    assert bench.main([], where) == 0, "a slow row is not missed where it was not asked for"
    capsys.readouterr()
    assert bench.main(["--all"], where) == 0
    out = capsys.readouterr().out
    assert "a  " in out and "b  " in out
    (where / "two.py").write_text("SLOW = True\n" + good("c"))
    assert bench.main(["--all"], where) == 1
    assert "MISSING" in capsys.readouterr().out


def test_every_benchmark_of_ours_is_found_and_nothing_else():
    """Each module with a ``main`` says what its rows are in its docstring and runs by itself; helpers have none."""
    import ast

    where = Path(bench.__file__).parent
    found = bench.modules(where)
    assert {"training", "cross_entropy", "evaluation", "m2_scale"} <= {p.stem for p in found}
    assert not {"timing", "session_data", "memory"} & {p.stem for p in found}
    assert [p.stem for p in found if bench.slow(p)] == ["m2_scale"]
    for path in found:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert len(ast.get_docstring(tree) or "") > 100, path.name
        assert "__main__" in ast.dump(tree), path.name


def test_rows_that_the_issue_promises_have_floors():
    recorded = json.loads((Path(bench.__file__).parent / bench.RECORDED).read_text())
    promised = {"SASRec": (15, 4), "GRU4Rec": (7, 2.5), "SRGNN": (7, 3)}
    for name, floors in promised.items():
        for size, floor in zip(("12k", "100k"), floors):
            assert recorded[f"{name}, a training pass over {size} items"]["floor"] == floor
    for name in ("peak growth of the loss, B 2048 x 100k", "peak growth of 4096 queries over 100k items"):
        assert recorded[name]["floor"] >= 10
    for name in ("SKNN", "V-SKNN"):
        assert recorded[f"{name}, a query over 20k sessions"]["floor"] >= 30
    assert recorded["SKNN, a query over 200k sessions (20k)"]["floor"] >= 0.6
