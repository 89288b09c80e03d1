"""The publishers' counts on the real raw files."""

import pytest

from recbole_llm.datasets import atomic, findings, validate
from recbole_llm.datasets.convert import convert, ensure
from recbole_llm.datasets.find_raw import find, folders
from recbole_llm.datasets.manifest import read
from recbole_llm.datasets.movielens import MovieLens1M10Min

pytestmark = pytest.mark.data


def sizes(content):
    return tuple(content["statistics"][k] for k in ("users", "items", "interactions"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("amazon-beauty", (22_363, 12_101, 198_502)),
        ("amazon-2014-Beauty", (22_363, 12_101, 198_502)),
        ("ml-1m", (6_040, 3_706, 1_000_209)),
    ],
)
def test_counts(home, raw_data, name, expected):
    source = raw_data / ("ml-1m" if name == "ml-1m" else "amazon-beauty")
    folder = ensure(name, raw_path=source, download=False, progress=False)
    assert sizes(read(folder)) == expected
    report = validate.validate(folder, name)
    assert report.ok and report.total(findings.WARNING) == 0
    columns = atomic.read_inter(folder / f"{name}.inter")
    assert (columns.order.astype("float32") == columns.order).all()


def test_beauty_texts_and_ties_T32(home, raw_data):
    content = read(ensure("amazon-beauty", raw_path=raw_data, download=False, progress=False))
    without = {f: facts["count"] for f, facts in content["items"]["without"].items()}
    assert (without["title"], without["brand"], without["categories"], without["price"]) == (7, 2_101, 3, 588)
    users = content["statistics"]["users"]
    assert 0.42 < content["events"]["users_whose_last_two_are_tied"] / users < 0.44


@pytest.mark.parametrize(
    ("rule", "sessions", "clicks"), [("bin", 47_719, 977_328), ("window", 41_858, 980_199), ("gap", 17_371, 980_991)]
)
def test_ten_minute_sessions(home, raw_data, rule, sessions, clicks):
    """The paper's item count exactly; its 53,121 sessions need the publisher's true times (57 % here are)."""
    converter = MovieLens1M10Min(MovieLens1M10Min.Options(rule=rule))
    raw, missing = find(converter, folders(converter, converter.name, raw_data))
    assert not missing
    assert sizes(convert(converter, raw, home / rule, "d", progress=False)) == (sessions, 3_416, clicks)
