"""What the tests of runs share: the toy, whose sessions follow a planted rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_llm.testing.planted import write_planted


@pytest.fixture
def toy(home: Path, request: pytest.FixtureRequest) -> Path:
    """The project root, with the dataset ``toy`` of as many sessions as the module's ``SESSIONS`` says (100)."""
    write_planted(home / "dataset_atomic" / "toy", sessions=getattr(request.module, "SESSIONS", 100))
    return home
