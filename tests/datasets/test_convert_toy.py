"""The committed toy dataset is what its script writes, and a transition model finds what was planted."""

import itertools
from collections import Counter, defaultdict
from pathlib import Path

from recbole_llm.datasets import atomic, manifest, validate
from recbole_llm.testing.planted import Planted, write_planted

TOY = Path(__file__).resolve().parents[2] / "dataset_atomic" / "toy"


def test_the_committed_files_are_the_scripts(tmp_path):
    made = write_planted(tmp_path / "toy")
    for name in ("toy.inter", "toy.item"):
        assert (made / name).read_bytes() == (TOY / name).read_bytes()
    assert manifest.read(made)["files"] == manifest.read(TOY)["files"]


def test_it_is_valid_and_of_the_promised_size():
    report = validate.validate(TOY, "toy")
    assert report.findings == []
    assert (report.statistics["users"], report.statistics["items"]) == (60, 40)


def test_what_was_planted_can_be_learnt():
    """Counting transitions before each session's last item predicts that item far better than chance (1 in 40)."""
    inter = atomic.read_inter(TOY / "toy.inter")
    sessions = defaultdict(list)
    for user, item in zip(inter.users.codes, inter.items.tokens[inter.items.codes]):
        sessions[user].append(item)
    follows = defaultdict(Counter)
    for session in sessions.values():
        for a, b in itertools.pairwise(session):
            follows[a][b] += 1
    hits = sum(bool(follows[s[-2]]) and follows[s[-2]].most_common(1)[0][0] == s[-1] for s in sessions.values())
    assert hits / len(sessions) > 0.7


def test_titles_name_the_department_the_rule_leads_from():
    items = atomic.read_columns(TOY / "toy.item")
    department = dict(zip(items["item_id"], items["categories"]))
    tokens = Planted.tokens()
    path = [department[tokens[0]]]
    at = 0
    for _ in range(8):
        at = Planted.follower(at)
        path.append(department[tokens[at]])
    assert len(set(path)) == 8 and path[8] == path[0]
