"""A broken atomic file is explained by line and column; a good one is not accused."""

import json

import pytest

from recbole_llm.datasets import findings, validate
from recbole_llm.errors import UserError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
ITEM = "item_id:token\ttitle:token_seq\tprice:float\n"
ROWS = "u1\ta\t1\nu1\tb\t2\nu2\ta\t1\nu2\tb\t2\n"
ITEMS = "a\tLamp\t1\nb\tBulb\t2\n"


@pytest.fixture
def check(tmp_path):
    def run(inter=INTER + ROWS, item=ITEM + ITEMS):
        folder = tmp_path / "d"
        folder.mkdir(exist_ok=True)
        for name, text in (("d.inter", inter), ("d.item", item)):
            if text is not None:
                (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return validate.validate(folder, "d")

    return run


def test_good_files(check):
    report = check()
    assert report.ok and report.findings == []
    assert report.statistics["interactions"] == 4 and report.statistics["density"] == 1.0


BROKEN = {
    "no types": ({"inter": "user_id\titem_id\nu\ta\n"}, "d.inter", 1, None, "column 1: 'user_id' has no type"),
    "unknown type": ({"item": "item_id:token\ttitle:text\n"}, "d.item", 1, None, "column 2: 'title:text' has no type"),
    "commas": ({"inter": "user_id:token,item_id:token\nu,a\n"}, "d.inter", 1, None, "there is no column 'user_id'"),
    "no item column": ({"inter": "user_id:token\tsku:token\nu\ta\n"}, "d.inter", 1, None, "no column 'item_id'"),
    "id as float": ({"item": "item_id:float\n1\n"}, "d.item", 1, "item_id", "is a float, not a token"),
    "twice": (
        {"item": "item_id:token\tt:token\tt:token\n"},
        "d.item",
        1,
        None,
        "column 3: the column 't' occurs twice",
    ),
    "too few": ({"inter": INTER + ROWS + "u3\ta\n"}, "d.inter", 6, None, "2 columns; the header has 3"),
    "too many": ({"item": ITEM + ITEMS + "c\tA\ttab\t3\n"}, "d.item", 4, None, "4 columns; the header has 3"),
    "no number": ({"inter": INTER + ROWS + "u3\ta\tsoon\n"}, "d.inter", 6, "timestamp", "'soon' is not a number"),
    "nan": ({"inter": INTER + ROWS + "u3\ta\tnan\n"}, "d.inter", 6, "timestamp", "'nan' is not a finite number"),
    "no time": ({"inter": INTER + ROWS + "u3\ta\t\n"}, "d.inter", 6, "timestamp", "the number is missing"),
    "price": ({"item": ITEM + ITEMS + "c\tx\t$5\n"}, "d.item", 4, "price", "'$5' is not a number"),
    "empty user": ({"inter": INTER + ROWS + "\ta\t1\n"}, "d.inter", 6, "user_id", "the id is empty"),
    "empty item": ({"item": ITEM + ITEMS + " \tx\t1\n"}, "d.item", 4, "item_id", "the id is empty"),
    "NaN id": ({"inter": INTER + ROWS + "NA\ta\t1\n"}, "d.inter", 6, "user_id", "'NA' is read as a missing value"),
    "pad": ({"inter": INTER + ROWS + "u\t[PAD]\t1\n"}, "d.inter", 6, "item_id", "[PAD] is RecBole's own"),
    "quoted": ({"inter": INTER + ROWS + '"u\ta\t1\n'}, "d.inter", 6, "user_id", "starts with a quote"),
    "duplicate item": ({"item": ITEM + ITEMS + "a\tLamp 2\t1\n"}, "d.item", 4, "item_id", "stands in line 2 already"),
    "not utf-8": ({"item": ITEM.encode() + b"b\tB\t1\na\tLamp\xff\t1\n"}, "d.item", 3, None, "byte 7 is not UTF-8"),
    "header not utf-8": ({"item": b"item_id:token\xff\n"}, "d.item", 1, None, "byte 14 is not UTF-8"),
    "mark": ({"inter": "\ufeff" + INTER + ROWS}, "d.inter", 1, None, "byte-order mark"),
    "empty": ({"inter": ""}, "d.inter", 1, None, "is empty"),
    "no rows": ({"inter": INTER}, "d.inter", None, None, "there is no interaction"),
    "missing": ({"inter": None}, "d.inter", None, None, "the file is missing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(check, case):
    files, file, line, column, says = BROKEN[case]
    report = check(**files)
    found = [f for f in report.findings if f.level == findings.ERROR]
    assert not report.ok
    assert [(f.file, f.line, f.column) for f in found] == [(file, line, column)]
    assert says in found[0].message


ODD = {
    "not described T1": ({"inter": INTER + ROWS + "u2\tzz\t3\n"}, "warning", "1 of 3 items of .inter have no row"),
    "never seen T1": ({"item": ITEM + ITEMS + "zz\tx\t1\n"}, "note", "1 items stand in no interaction (such as zz)"),
    "quote": ({"item": ITEM + 'a\t"Lamp\t1\nb\t"B"\t2\n'}, "warning", "starts with a quote that it does not end with"),
    "windows": ({"inter": (INTER + ROWS).replace("\n", "\r\n")}, "warning", "carriage return"),
    "blank": ({"inter": INTER + ROWS + "\n"}, "warning", "blank line"),
    "ties T32": ({"inter": INTER + ROWS + "u2\ta\t2\n"}, "warning", "1 events share their user's previous timestamp"),
    "float32 T32": (
        {"inter": INTER + "u1\ta\t1700000001\nu1\tb\t1700000002\nu1\ta\t1700000300\n"},
        "warning",
        "1 more do so as float32",
    ),
    "no time": ({"inter": "user_id:token\titem_id:token\nu\ta\nu\tb\n"}, "warning", "no column 'timestamp:float'"),
    "no title": ({"item": ITEM + "a\t\t1\nb\tB\t\n"}, "note", "1 items have none"),
    "no items": ({"item": None}, "note", "no item has a text"),
    "short": ({"inter": INTER + ROWS + "u3\ta\t1\n"}, "note", "1 users or sessions have one interaction only"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_said_and_usable(check, case):
    files, level, says = ODD[case]
    report = check(**files)
    assert report.ok
    assert any(f.level == level and says in f.message for f in report.findings), list(map(str, report.findings))


def test_many_of_a_kind_are_counted_not_listed(check):
    report = check(inter=INTER + ROWS + "u\n" * 50)
    assert len(report.findings) == findings.LISTED and report.total(findings.ERROR) == 50
    assert report.unlisted() == {"d.inter: columns": 45}


def test_a_changed_file_is_noticed(check, tmp_path):
    check()
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({"schema": 1, "files": {"d.item": {"sha256": "0"}}}))
    report = validate.validate(tmp_path / "d", "d")
    assert [f.message for f in report.findings] == ["the file was changed since the manifest was written"]


def test_pre_split_files_and_item_lists(tmp_path):
    header = "session_id:token\tuser_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
    (tmp_path / "d.train.inter").write_text(header + "s1\tu1\ta b\tc\t1\ns1\tu2\t\tc\t1\n")
    (tmp_path / "d.test.inter").write_text(header + "s1\tu1\ta b c\td\t1\n")
    (tmp_path / "d.item").write_text("item_id:token\na\nb\nc\nd\n")
    report = validate.validate(tmp_path, "d")
    assert [(f.file, f.line, f.message) for f in report.findings if f.level == "error"] == [
        ("d.train.inter", 3, "the item list is empty")
    ]
    assert not any("no row" in f.message or "no interaction" in f.message for f in report.findings)


@pytest.mark.parametrize("how", ["name", "folder", "file", "part"])
def test_what_may_be_named(home, how):
    folder = home / "dataset_atomic" / "shop"
    folder.mkdir(parents=True)
    (folder / "shop.inter").write_text("")
    (folder / "shop.test.inter").write_text("")
    what = {"name": "shop", "folder": folder, "file": folder / "shop.inter", "part": folder / "shop.test.inter"}[how]
    assert validate.locate(str(what)) == (folder, "shop")


def test_what_is_not_there(home):
    with pytest.raises(UserError, match="There is no dataset 'shop'"):
        validate.locate("shop")
