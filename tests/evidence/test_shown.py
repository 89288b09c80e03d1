"""What figures say of seeds, and the log that learning curves and costs are read from."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence.groups import Group
from recbole_llm.evidence.run_folder import read_log
from recbole_llm.evidence.shown import DEVIATION, INTERVAL, over_seeds, spread_of

ONE, TWO = (Group("m", [object()] * n) for n in (1, 2))


@pytest.mark.parametrize("spread", [DEVIATION, INTERVAL])
def test_one_seed_says_nothing_of_seeds(spread):
    assert spread_of([TWO, TWO], spread) == spread
    mixed, alone = spread_of([TWO, ONE], spread), spread_of([ONE, ONE], spread)
    assert mixed.startswith(spread) and "models with one seed" in mixed
    assert "one seed a model" in alone and "over seeds" not in alone and "and seeds resampled" not in alone
    assert over_seeds(0.0, [1]) is None and over_seeds(0.0, [1, 2]) == 0.0


def test_a_log_that_is_being_written_ends_before_its_unfinished_line(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_log(tmp_path) == []
    log.write_text('{"epoch": 0}\n{"epoch": 1}\n{"epo')
    assert read_log(tmp_path) == [{"epoch": 0}, {"epoch": 1}]
    log.write_text('{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_log(tmp_path)
