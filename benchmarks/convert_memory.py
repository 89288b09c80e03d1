"""Peak memory of converting and of splitting ten million interactions, against the promise of 6 GB.

A gzipped file of JSON lines, as Amazon's, is written first; then a process of its own converts it (5-core) and
another one reads the atomic files and splits them, by leave-one-out and by session time. The peak is the largest
resident set the operating system saw. ``equal``: users, items, interactions and rows are what was written.

usage: python benchmarks/convert_memory.py [--scale 10000000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BOUND_GB = 6.0
SCALE = 10_000_000
EVENTS, ITEMS_A_MILLION = 10, 20_000
_REVIEWS, _META = "Synthetic_5.json.gz", "meta_Synthetic.json.gz"

_WRITE = f"""
import json, runpy, sys
write = runpy.run_path({str(Path(__file__).resolve())!r})["write"]
print(json.dumps(write(sys.argv[1], int(sys.argv[2]))))
"""
_CONVERT = """
import json, resource, sys
from pathlib import Path
from recbole_llm.datasets.amazon2018 import category
from recbole_llm.datasets.convert import convert
folder = Path(sys.argv[1])
converter = category("amazon-2018-Synthetic")()
content = convert(converter, {f.name: folder / f.name for f in converter.files}, folder / "d", "d", progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak": peak, "counts": [content["statistics"][k] for k in ("users", "items", "interactions")]}))
"""
_SPLIT = """
import json, resource, sys
from pathlib import Path
from recbole_llm.datasets.atomic import read_inter
from recbole_llm.datasets.sessions import Sessions
from recbole_llm.datasets.splits import leave_one_out, session_time
columns = read_inter(Path(sys.argv[1]) / "d" / "d.inter")
sessions = Sessions.from_columns(columns.users.codes + 1, columns.items.codes + 1, columns.time, columns.order)
del columns
rows = []
for rule in (leave_one_out, session_time):
    split = rule(sessions)
    rows.append([len(split.train), len(split.valid), len(split.test)])
    del split
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "rows": rows}))
"""


def main(scale: int = SCALE) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        # written by a process of its own: a child inherits the peak of the process that started it
        users, items = _child(_WRITE, folder, str(scale))
        converted, split = (_child(code, folder) for code in (_CONVERT, _SPLIT))
    millions = f"{scale / 1e6:g}M interactions"
    last, by_time = split["rows"]
    whole = last == [users * (EVENTS - 3), users, users]  # every user has EVENTS events
    test = -(-users // 5)  # the latest fifth of the sessions, and none of their items is unseen
    return {
        f"peak memory, converting {millions}": _row(converted, converted["counts"] == [users, items, users * EVENTS]),
        f"peak memory, splitting {millions}": _row(split, whole and by_time[2] == test),
    }


def _row(measured: dict[str, Any], equal: bool) -> dict[str, Any]:
    # kilobytes on Linux, bytes on macOS
    ours = measured["peak"] / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
    return {"ours": round(ours, 3), "peer": BOUND_GB, "unit": "GB", "ratio": round(BOUND_GB / ours, 3), "equal": equal}


def _child(code: str, *arguments: str) -> Any:
    """What a process of its own prints last, as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def write(folder: str | Path, scale: int) -> tuple[int, int]:
    """Reviews of ``scale`` interactions and items with titles; returns (users, items). Users come in an order of
    their own, every item is bought by many, popular ones more."""
    folder = Path(folder)
    rng = np.random.default_rng(0)
    users = max(10, scale // EVENTS)
    items = max(20, int(scale / 1e6 * ITEMS_A_MILLION))
    owner = np.repeat(np.arange(users), EVENTS)
    rng.shuffle(owner)
    with gzip.open(folder / _REVIEWS, "wt", compresslevel=1, encoding="ascii") as out:
        for start in range(0, len(owner), 500_000):
            who = owner[start : start + 500_000]
            # the first events go round the catalogue, so that every item is in the 5-core
            round_robin = np.arange(start, start + len(who)) % items
            popular = (items * rng.random(len(who)) ** 3).astype(np.int64)
            what = np.where(np.arange(start, start + len(who)) < 6 * items, round_robin, popular)
            when = 1_400_000_000 + 86_400 * rng.integers(0, 2000, len(who))
            out.writelines(
                f'{{"overall": 5.0, "reviewerID": "A{u:013d}", "asin": "B{i:09d}", "unixReviewTime": {t}}}\n'
                for u, i, t in zip(who.tolist(), what.tolist(), when.tolist())
            )
    with gzip.open(folder / _META, "wt", compresslevel=1, encoding="ascii") as out:
        out.writelines(
            f'{{"asin": "B{i:09d}", "title": "Thing number {i} of a synthetic shop", "brand": "Brand {i % 97}"}}\n'
            for i in range(items)
        )
    return users, items


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=int, default=SCALE, help="interactions (default: ten million)")
    print(json.dumps(main(parser.parse_args().scale), indent=1))
