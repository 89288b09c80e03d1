"""`recbole-llm embed` and `estimate`, from the command line to the store."""

from __future__ import annotations

import json

import pytest

from recbole_llm.cli import text_job
from recbole_llm.cli.main import main
from recbole_llm.plugins import house
from recbole_llm.text.vector_store import VectorStore

ITEMS = "item_id:token\ttitle:token_seq\tbrand:token_seq\n1\tRed shoe\tAcme\n2\tBlue shoe\t\n3\t\t\n4\tnever bought\t\n"
INTER = "user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1\nu\t2\t2\nu\t3\t3\nv\t1\t4\n"
HASHING = ["--text_encoder=hashing", "--text_dimensions=16"]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_LLM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset_atomic" / "shop"
    folder.mkdir(parents=True)
    (folder / "shop.item").write_text(ITEMS)
    (folder / "shop.inter").write_text(INTER)
    return folder


def stored(folder, *texts):
    (path,) = (folder / "vectors").iterdir()
    said = json.loads((path / "fingerprint.json").read_text())
    store = VectorStore(folder, said["encoder"], said["fingerprint"])
    return len(store), (store.find(store.keys(texts)) >= 0).tolist()


def test_embed_says_what_it_takes_and_then_does_it(shop, capsys):
    assert main(["embed", "shop", *HASHING]) == 0
    out = capsys.readouterr().out
    assert "3 items, 2 with a text from title, brand" in out and "2 distinct, 0 stored, 2 to encode" in out
    assert "encoded    2 texts, 8 tokens, 1 calls" in out and "TEST ENCODER" in out
    assert stored(shop, "title: Red shoe\nbrand: Acme", "title: Blue shoe", "title: never bought") == (
        2,
        [True, True, False],
    )
    assert main(["embed", "shop", *HASHING]) == 0
    assert "Everything is stored already" in capsys.readouterr().out


def test_estimate_makes_nothing(shop, capsys):
    assert main(["estimate", "shop", *HASHING, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["distinct"], said["stored"], said["missing"], said["tokens"]) == (2, 0, 2, 8)
    assert not (shop / "vectors").exists()
    main(["embed", "shop", *HASHING])
    capsys.readouterr()
    (shop / "shop.item").write_text(ITEMS.replace("Blue", "Green"))
    assert main(["estimate", "shop", *HASHING, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["stored"], said["missing"], said["bytes"]) == (1, 1, 64)


def test_price_and_budget(shop, tmp_path, capsys):
    """8 tokens at 500,000 a million are 4."""
    table = tmp_path / "prices.yaml"
    table.write_text('date: 2026-01-31\ncurrency: EUR\nmodels: {"TEST ENCODER, not a language model": 500000}\n')
    assert main(["estimate", "shop", *HASHING, f"--prices={table}"]) == 0
    assert "price      4.0000 EUR  (prices of 2026-01-31)" in capsys.readouterr().out
    assert main(["embed", "shop", *HASHING, f"--prices={table}", "--budget=3.99"]) == 2
    assert "more than the budget of 3.99" in capsys.readouterr().err and not (shop / "vectors").exists()
    assert main(["embed", "shop", *HASHING, "--budget=3"]) == 2
    assert "--prices=FILE" in capsys.readouterr().err
    assert main(["embed", "shop", *HASHING, f"--prices={table}", "--budget=4"]) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("models: {a: 1}", "not a price table"),
        ("date: 2026-01-31", "not a price table"),
        ("date: 2026-01-31\nmodels: {a: 1}", "no price for 'TEST ENCODER"),
        ('date: 2026-01-31\nmodels: {"TEST ENCODER, not a language model": free}', "is 'free', not a number"),
    ],
)
def test_bad_price_tables(shop, tmp_path, capsys, table, message):
    (tmp_path / "p.yaml").write_text(table)
    assert main(["estimate", "shop", *HASHING, f"--prices={tmp_path / 'p.yaml'}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shpo", *HASHING], "There is no dataset 'shpo'"),
        (["shop", "--text_encoder=hashng"], "Did you mean hashing"),
        (["shop", *HASHING, "--text_feilds=[title]"], "Did you mean text_fields"),
        (["shop", "--text_encoder=hashing", "--text_dimensions=many"], "text_dimensions"),
        (["shop", *HASHING, "--text_fields=[titel]"], "Did you mean title"),
        (["shop", *HASHING, "--text_template=a {titel}"], "Did you mean title"),
        (["shop", *HASHING, "--text_batch_tokens=0"], "text_batch_tokens"),
    ],
)
def test_mistakes_are_told_on_one_screen(shop, capsys, words, message):
    for command in ("embed", "estimate"):
        assert main([command, *words]) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err and not (shop / "vectors").exists()


def test_levels_dataset_yaml_below_config_files_below_command_line(shop, tmp_path):
    """The manifest's fields hold until a yaml of the project, a config file or the command line says otherwise."""
    overrides = {"text_encoder": "hashing"}

    def fields(**more):
        return text_job.load_text_config("shop", {**overrides, **more}, house())["text_fields"]

    assert fields() == ["title", "brand"]
    (tmp_path / "yaml" / "dataset").mkdir(parents=True)
    (tmp_path / "yaml" / "dataset" / "shop.yaml").write_text("text_fields: [brand]\n")
    assert fields() == ["brand"]
    (tmp_path / "mine.yaml").write_text("text_fields: [title]\n")
    assert fields(config_files=str(tmp_path / "mine.yaml")) == ["title"]
    assert fields(config_files=str(tmp_path / "mine.yaml"), text_fields="[brand,title]") == ["brand", "title"]


def test_items_of_presplit_files(shop):
    """Without one `.inter`, the parts of a pre-split dataset say which items count, lists included."""
    (shop / "shop.inter").unlink()
    (shop / "shop.train.inter").write_text("session_id:token\titem_id_list:token_seq\titem_id:token\ns\t1 2\t3\n")
    (shop / "shop.test.inter").write_text("session_id:token\titem_id_list:token_seq\titem_id:token\nt\t3 1\t4\n")
    assert sorted(text_job.item_tokens(shop, "shop")) == ["1", "2", "3", "4"]
    for path in shop.glob("*.inter"):
        path.unlink()
    (shop / "shop.item").write_text(ITEMS + "5\tonly here\t\n")
    assert text_job.item_tokens(shop, "shop") == ["1", "2", "3", "4", "5"]


def test_a_broken_item_file_names_the_line(shop, capsys):
    (shop / "shop.item").write_text(ITEMS + "5\ttoo\tmany\tcolumns\n")
    assert main(["embed", "shop", *HASHING]) == 2
    assert "shop.item, line 6: 4 columns" in capsys.readouterr().err
