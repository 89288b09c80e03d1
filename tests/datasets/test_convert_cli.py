"""`recbole-llm convert` and `validate` as a user types them."""

import json

import pytest

from recbole_llm.cli.main import main

CLICKS = "visitor,sku,when\nv1,a,1\nv1,b,2\nv2,a,3\nv2,b,4\nv3,a,5\nv3,c,6\n"
PRODUCTS = "sku,title,brand\na,Lamp &amp; bulb,Lumo\nb,Bulb,\nc,Cable,X\n"


@pytest.fixture
def files(home):
    (home / "clicks.csv").write_text(CLICKS)
    (home / "products.csv").write_text(PRODUCTS)
    return home


SHOP = ["convert", "csv", "--name", "shop", "--inter", "clicks.csv", "--items", "products.csv", "--item-col", "sku"]
SHOP += ["--user-col", "visitor", "--time-col", "when", "--text-cols", "title,brand"]


def test_own_tables_from_the_command_line(files, capsys):
    assert main([*SHOP, "--min-item", "2", "--min-user", "2"]) == 0
    out = capsys.readouterr().out
    assert "shop: 2 users, 2 items, 4 interactions" in out and "6 -> 4 interactions" in out
    folder = files / "dataset_atomic" / "shop"
    assert (folder / "shop.item").read_text() == (
        "item_id:token\ttitle:token_seq\tbrand:token_seq\na\tLamp & bulb\tLumo\nb\tBulb\t\n"
    )
    content = json.loads((folder / "manifest.json").read_text())
    assert content["options"]["min_item"] == 2 and content["options"]["user_col"] == "visitor"
    assert main(["validate", "shop"]) == 0
    assert "usable (0 errors, 0 warnings, 1 note)" in capsys.readouterr().out


def test_what_is_there_is_not_converted_again_unless_forced(files, capsys):
    assert main(SHOP) == 0
    before = (files / "dataset_atomic" / "shop" / "shop.inter").read_bytes()
    (files / "clicks.csv").write_text(CLICKS + "v4,a,7\nv4,b,8\n")
    assert main(SHOP) == 2
    assert "--force" in capsys.readouterr().err
    assert (files / "dataset_atomic" / "shop" / "shop.inter").read_bytes() == before
    assert main([*SHOP, "--force"]) == 0
    assert "4 users" in capsys.readouterr().out


def test_sessions_of_users(files, capsys):
    (files / "clicks.csv").write_text("visitor,visit,sku\nv1,1,a\nv2,1,b\nv1,1,b\nv1,2,a\n")
    arguments = ["convert", "csv", "--name", "s", "--inter", "clicks.csv", "--item-col", "sku", "--user-col", "visitor"]
    assert main([*arguments, "--session-col", "visit", "--out", "else/where"]) == 0
    rows = (files / "else" / "where" / "s.inter").read_text().split("\n")[1:]
    assert rows == ["v1/1\ta\t1\t0", "v1/1\tb\t2\t2", "v2/1\tb\t1\t1", "v1/2\ta\t1\t3", ""]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert", "csv", "--inter", "clicks.csv"], "needs a name"),
        ([*SHOP, "--time-col", "wen"], "Did you mean 'when'?"),
        ([*SHOP, "--text-cols", "titel"], "Did you mean 'title'?"),
        ([*SHOP, "--sep", ";"], "is the separator right?"),
        ([*SHOP, "--min-user", "many"], "min_user"),
        ([*SHOP, "--inter", "gone.csv"], "there is no such file"),
        ([*SHOP, "--name", "../up"], "it is a path"),
        ([*SHOP, "--usr-col", "x"], "does not take '--usr-col'"),
        (["convert", "ml-1m", "--user-col", "x"], "convert csv"),
        (["convert", "ml-1m", "--raw", "nowhere"], "there is no such folder"),
        (["convert", "ml-1m", "--raw", "."], "ml-1m.zip"),
        (["convert", "ml-1m", "-o", "rule"], "is no option"),
        (["convert", "ml-1m-10min", "-o", "rule=hour", "--no-download"], "rule"),
        (["convert", "amazon-beuty"], "amazon-beauty"),
        (["validate", "gone"], "There is no dataset 'gone'"),
    ],
)
def test_mistakes_are_explained_with_exit_code_2(files, capsys, arguments, says):
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not list(files.rglob("*.inter"))


def test_validate_prints_line_and_column_and_exits_2(files, capsys):
    folder = files / "dataset_atomic" / "bad"
    folder.mkdir(parents=True)
    (folder / "bad.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\tsoon\n")
    assert main(["validate", "bad"]) == 2
    assert "error: bad.inter, line 3, column timestamp: 'soon' is not a number" in capsys.readouterr().out
    assert main(["validate", "bad", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["line"] == 3


def test_ml_100k_needs_nothing(home, capsys):
    pytest.importorskip("recbole", reason="RecBole ships it")
    assert main(["convert", "ml-100k", "--no-download"]) == 0
    assert "943 users, 1,682 items, 100,000 interactions" in capsys.readouterr().out
