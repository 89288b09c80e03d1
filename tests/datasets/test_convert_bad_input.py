"""Bad raw files: a message that names file and line, and nothing half written."""

import gzip
import json
import os
import re

import pytest

from recbole_llm.datasets import convert as conversion
from recbole_llm.datasets.amazon2014 import AmazonBeauty
from recbole_llm.datasets.convert import convert
from recbole_llm.datasets.csv_source import Csv, CsvOptions
from recbole_llm.datasets.movielens import MovieLens1M
from recbole_llm.errors import UserError

REVIEWS = "reviews_Beauty_5.json.gz"
META = "meta_Beauty.json.gz"
GOOD = [json.dumps({"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": i}) for u in range(6) for i in range(6)]


def gz(lines):
    return gzip.compress("\n".join(lines).encode())


GOOD_REVIEWS, GOOD_META = gz(GOOD), gz([repr({"asin": "B0", "title": "T"})])


@pytest.fixture
def beauty(tmp_path):
    """``(convert with these bytes, output folder)``; good files where none are given."""
    raw = tmp_path / "raw"
    raw.mkdir()
    out = tmp_path / "out"

    def run(reviews=GOOD_REVIEWS, meta=GOOD_META):
        (raw / REVIEWS).write_bytes(reviews)
        (raw / META).write_bytes(meta)
        with conversion.workplace(out):
            return convert(AmazonBeauty(), {n: raw / n for n in (REVIEWS, META)}, out, "d", progress=False)

    return run, out


BAD = {
    "empty": ({"reviews": b""}, r"reviews_Beauty_5.json.gz is empty"),
    "empty gzip": ({"reviews": gzip.compress(b"")}, r"reviews_Beauty_5.json.gz holds nothing"),
    "html": ({"reviews": b"<html>Access denied</html>"}, "is not a gzip file; it looks like an HTML page"),
    "plain": ({"reviews": "\n".join(GOOD).encode()}, "is not a gzip file; it looks like plain data"),
    "truncated": ({"reviews": gz(GOOD)[:-20]}, r"truncated or damaged: it cannot be read past line \d+"),
    "flipped": ({"reviews": gz(GOOD)[:30] + b"\x00\x00\x00" + gz(GOOD)[33:]}, "truncated or damaged"),
    "bad line": ({"reviews": gz([*GOOD, "", '{"reviewerID": "A", "asin"'])}, "line 38 is no record"),
    "code": ({"reviews": gz([*GOOD, "{'a': __import__('os').getcwd()}"])}, "line 37 is no record"),
    "a list": ({"reviews": gz([*GOOD, "[1, 2]"])}, "line 37 holds a list, not a record"),
    "no key": ({"reviews": gz([*GOOD, '{"reviewerID": "A", "asin": "B"}'])}, "line 37 has no 'unixReviewTime'"),
    "null id": ({"reviews": gz([*GOOD, '{"reviewerID": null, "asin": "B", "unixReviewTime": 1}'])},
                "Interaction 37 has no user id"),
    "nan id": ({"reviews": gz([*GOOD, '{"reviewerID": "A", "asin": NaN, "unixReviewTime": 1}'])},
               "Interaction 37 has no item id"),
    "number id": ({"reviews": gz([*GOOD, '{"reviewerID": "A", "asin": 7, "unixReviewTime": 1}'])},
                  "Interaction 37 has the item id 7, which is not text"),
    "nan time": ({"reviews": gz([*GOOD, '{"reviewerID": "A", "asin": "B", "unixReviewTime": NaN}'])},
                 "Interaction 37 has the time nan"),
    "not utf-8": ({"reviews": gzip.compress(b"\xff\xfe")}, "line 1: byte 1 is not utf-8"),
    "nothing left": ({"reviews": gz(GOOD[:4])}, "Nothing is left of 'd' after: users with >= 5"),
    "bad meta": ({"meta": gz(["{'asin': 'B0'}", "{'asin': "])}, "line 2 is no record"),
    "truncated meta": ({"meta": gz([repr({"asin": f"C{n}"}) for n in range(999)])[:-9]}, "truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_raw_file_is_explained_and_nothing_is_written(beauty, case):
    run, out = beauty
    files, says = BAD[case]
    with pytest.raises(UserError, match=says):
        run(**files)
    assert not out.exists()


@pytest.mark.parametrize("case", ["truncated", "bad meta"])
def test_a_failed_conversion_leaves_the_old_files(beauty, case):
    run, out = beauty
    run()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(UserError):
        run(**BAD[case][0])
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_no_space_leaves_nothing(beauty, monkeypatch):
    run, out = beauty

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion.write.atomic, "write_rows", full)
    with pytest.raises(UserError, match="No space left"):
        run()
    assert not out.exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(beauty, tmp_path):
    run, out = beauty
    out.mkdir(mode=0o555)
    with pytest.raises(UserError, match="Permission denied"):
        run()


def test_a_read_only_disk(beauty, monkeypatch):
    run, _out = beauty

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(conversion, "locked", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        run()


def test_a_folder_that_is_a_file(beauty):
    run, out = beauty
    out.write_text("")
    with pytest.raises(UserError, match=re.escape(str(out))):
        run()


def test_movielens_line_with_other_fields(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::2::3::4\n1::2::3\n")
    (tmp_path / "movies.dat").write_text("2::T (1999)::Drama\n")
    with pytest.raises(UserError, match="line 2 has 3 fields"):
        convert(MovieLens1M(), {n: tmp_path / n for n in ("ratings.dat", "movies.dat")}, tmp_path / "o", progress=False)


CSV = "user,item,time\nu,a,1\nu,b,2\n"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (CSV, {"user_col": "usr"}, "no column 'usr'; it has user, item, time"),
        (CSV, {"user_col": "user", "sep": ";"}, "no column 'user'"),
        ("", {"user_col": "user"}, "is empty"),
        ("user,item,time\n", {"user_col": "user"}, "holds a header and no rows"),
        (CSV + "u,,3\n", {"user_col": "user"}, r"row 3 \(after the header\)"),
        (CSV + "nan,a,3\n", {"user_col": "user"}, r"row 3 \(after the header\)"),
        (CSV + "u,a,soon\n", {"user_col": "user"}, r"row 3 \(after the header\)"),
        (CSV + "u,a,3,4\n", {"user_col": "user"}, "cannot be read as a table"),
        (CSV + "u\xff,a,3\n", {"user_col": "user"}, "is not utf-8"),
    ],
)
def test_bad_tables(tmp_path, text, options, says):
    path = tmp_path / "c.csv"
    path.write_bytes(text.encode("latin-1"))
    converter = Csv(CsvOptions(item_col="item", time_col="time", **options))
    with pytest.raises(UserError, match=says):
        convert(converter, {"inter": path}, tmp_path / "out", "d", progress=False)
    assert not (tmp_path / "out").exists()


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(CSV + "u,,3\n,b,4\nu,c,soon\nu,c,5\n")
    converter = Csv(CsvOptions(user_col="user", item_col="item", time_col="time", missing="drop"))
    content = convert(converter, {"inter": path}, tmp_path / "out", "d", progress=False)
    assert content["statistics"]["interactions"] == 3 and content["read"]["rows_left_out"] == 3


def test_a_short_row_is_not_filled_in_silence(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(CSV + "u\n")
    converter = Csv(CsvOptions(user_col="user", item_col="item", time_col="time"))
    with pytest.raises(UserError, match="row 3"):
        convert(converter, {"inter": path}, tmp_path / "out", "d", progress=False)


def test_csv_needs_to_know_whose_events_they_are():
    with pytest.raises(UserError, match="whose events"):
        Csv(CsvOptions())
