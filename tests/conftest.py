"""What every room's tests share: a small planted dataset, a home of their own, and the real raw data if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def raw_data() -> Path:
    """The folder of real raw data (amazon-beauty, ml-1m, oracles), or a skip that says where it is looked for."""
    folder = Path(os.environ.get("RECBOLE_LLM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set RECBOLE_LLM_TEST_DATA (looked in {folder.name}/)")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty project root that is also the current folder."""
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_planted(folder: Path, name: str = "planted", users: int = 60, items: int = 40, seed: int = 0) -> Path:
    """A dataset of cyclic sessions (item i is mostly followed by i + 1), 3 to 14 clicks each, with titles."""
    rng = np.random.default_rng(seed)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    clock = 0
    for user in range(users):
        at = int(rng.integers(items))
        for _ in range(int(rng.integers(3, 15))):
            clock += 1
            rows.append(f"u{user}\ti{at}\t{int(rng.integers(1, 6))}\t{clock}")
            at = (at + 1) % items if rng.random() < 0.9 else int(rng.integers(items))
    (target / f"{name}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lines = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    lines += [f"i{i}\tthing number {i} of group {i // 8}\tgroup{i // 8}" for i in range(items)]
    (target / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


@pytest.fixture
def planted(home) -> Path:
    """The project root, with the dataset ``planted`` under ``dataset_atomic``."""
    write_planted(home / "dataset_atomic")
    return home
