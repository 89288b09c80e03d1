"""``make bench``: every benchmark in a process of its own, one table, ``latest.json``, and a look at what was recorded.

A benchmark is a module of this folder with ``main() -> {name: {"ours", "peer", "unit", "ratio", "equal"}}``. Both
sides are measured in one process, so a ratio (peer / ours, larger is better) carries over between machines and
seconds do not. ``equal`` says that both gave the same result before they were timed. ``recorded.json`` holds, for
each name, the ratio once reached and, where we promise one, a ``floor``. A module with ``SLOW = True`` takes minutes:
it runs by name or with ``--all`` (``make bench-all``), and its recorded rows say ``slow``.

Fails (exit code 1) where a benchmark fails, is missing, is not equal, falls under 0.6 of its recorded ratio, or under
its floor.

usage: python benchmarks/run.py [NAME ...] [--all] [--record]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LATEST, RECORDED = "latest.json", "recorded.json"
#: A shared machine moves ratios by a quarter; a ratio under this share of the recorded one is a loss.
LOSS = 0.6
FIELDS = {"ours": (int, float), "peer": (int, float), "unit": str, "ratio": (int, float), "equal": bool}


def modules(folder: Path) -> list[Path]:
    """The files of ``folder`` with a ``main``; others are helpers."""
    found = []
    for path in sorted(folder.glob("*.py")):
        names = {n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)}
        if path.resolve() != Path(__file__).resolve() and "main" in names:
            found.append(path)
    return found


def slow(path: Path) -> bool:
    """Whether a module says ``SLOW = True``."""
    return any(
        isinstance(n, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "SLOW" for t in n.targets)
        and isinstance(n.value, ast.Constant)
        and n.value.value is True
        for n in ast.parse(path.read_text(encoding="utf-8")).body
    )


def measure(path: Path, timeout: float = 1800) -> dict[str, dict[str, Any]]:
    """What ``main()`` of one module returns, from a process of its own.

    Raises:
        RuntimeError: it failed, or returned something else.
    """
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location(sys.argv[2], sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "json.dump(module.main(), open(sys.argv[3], 'w'))\n"
    )
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")}
    path = path.resolve()
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([str(path.parent), *_python_path()])}
    with tempfile.TemporaryDirectory() as work:
        answer = Path(work) / "answer.json"
        command = [sys.executable, "-c", code, str(path), path.stem, str(answer)]
        try:
            done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took more than {timeout:.0f} s") from None
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        rows = json.loads(answer.read_text())
    if not isinstance(rows, dict) or not rows:
        raise RuntimeError("main() returned no rows")
    for name, row in rows.items():
        wrong = [f for f, kind in FIELDS.items() if not isinstance(row.get(f), kind)]
        if wrong:
            raise RuntimeError(f"the row '{name}' has no good {', '.join(wrong)}")
    return rows


def _python_path() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]


def verdict(row: dict[str, Any], recorded: dict[str, Any] | None) -> str:
    """``ok``, ``new``, or what is wrong with one row."""
    if not row["equal"]:
        return "NOT EQUAL"
    if recorded is None:
        return "new"
    if "floor" in recorded and row["ratio"] < recorded["floor"]:
        return f"UNDER ITS FLOOR {recorded['floor']:g}"
    if row["ratio"] < LOSS * recorded["ratio"]:
        return f"LOST, was {recorded['ratio']:.3g}"
    return "ok"


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if 0 < i < 5 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report(
    results: dict[str, dict[str, Any]], failed: dict[str, str], recorded: dict[str, Any], expected: set[str]
) -> tuple[str, bool]:
    """The table, and whether all is well. ``expected``: the recorded names that must be there."""
    lines: list[tuple[str, ...]] = [("benchmark", "ours", "peer", "unit", "ratio", "recorded", "")]
    good = not failed
    for name, row in results.items():
        before = recorded.get(name)
        said = verdict(row, before)
        good &= said in ("ok", "new")
        was = f"{before['ratio']:.3g}" if before else "-"
        lines.append((name, f"{row['ours']:.4g}", f"{row['peer']:.4g}", row["unit"], f"{row['ratio']:.3g}", was, said))
    for name, why in failed.items():
        lines.append((name, "-", "-", "-", "-", "-", f"FAILED: {why}"))
    for name in sorted(expected - set(results)):
        good = False
        lines.append((name, "-", "-", "-", "-", f"{recorded[name]['ratio']:.3g}", "MISSING"))
    return table(lines), good


def main(argv: list[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description="ratios against live peers, in one table")
    parser.add_argument("names", nargs="*", help="modules to run; default all but the slow ones")
    parser.add_argument("--all", action="store_true", help="the slow ones too")
    parser.add_argument("--record", action="store_true", help=f"write the ratios into {RECORDED}")
    args = parser.parse_args(argv)
    found = modules(folder)
    unknown = set(args.names) - {p.stem for p in found}
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(p.stem for p in found)}")
    chosen = [p for p in found if p.stem in args.names or (not args.names and (args.all or not slow(p)))]
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    taking_minutes: set[str] = set()
    for path in chosen:
        print(f"{path.stem} …", file=sys.stderr, flush=True)
        try:
            rows = measure(path)
            twice = sorted(set(rows) & set(results))
            if twice:
                raise RuntimeError(f"the name '{twice[0]}' is another benchmark's")
            results.update(rows)
            taking_minutes |= set(rows) if slow(path) else set()
        except RuntimeError as e:
            failed[path.stem] = str(e)
    record = folder / RECORDED
    recorded = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    expected = {n for n, r in recorded.items() if not args.names and (args.all or not r.get("slow"))}
    text, good = report(results, failed, recorded, expected)
    print(
        f"One thread, {platform.machine()}, Python {platform.python_version()}; ratio = peer / ours, larger is better."
    )
    print(text)
    latest = folder / LATEST
    kept = json.loads(latest.read_text(encoding="utf-8")) if args.names and latest.is_file() else {}
    _write(latest, {**kept, **results})
    if args.record:
        for name, row in results.items():
            of_module = {"slow": True} if name in taking_minutes else {}
            recorded[name] = {**recorded.get(name, {}), **of_module, "ratio": float(f"{row['ratio']:.3g}")}
        _write(record, recorded)
    return 0 if good else 1


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
