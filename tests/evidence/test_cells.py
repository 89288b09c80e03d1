"""Which runs an experiment file means."""

from __future__ import annotations

import pytest

from recbole_llm.errors import UserError
from recbole_llm.evidence.cells import Kind, labels_of
from recbole_llm.evidence.experiment import joined_labels, read_encoders, read_experiment, read_seeds
from recbole_llm.values import parse_value

FILE = """
settings: {dataset: d}
seeds: [1, 2]
runs:
  ID: {model: Trained}
  text: {model: TrainedText}
  sim: {model: FreeText}
  pop: {model: Free}
  switch: {model: Mixture, parts: {sim: "@sim", seq: "@text"}}
  still: {model: Mixture, parts: ["@sim", "@pop"]}
  all: {model: Mixture, parts: ["@text@all", "@pop", "@ID@all"]}
  once: {model: Trained, seeds: 1}
"""


def kind(label, settings):
    model = settings["model"]
    return Kind(train_free=model.startswith(("Free", "Mixture")), reads_text=model.endswith("Text"))


def read(tmp_path, text=FILE, **overrides):
    path = tmp_path / "e.yaml"
    path.write_text(text)
    return read_experiment(str(path), overrides)


def by_row(cells):
    return {label: [c for c in cells if c.label == label] for label in dict.fromkeys(c.label for c in cells)}


def test_trained_runs_are_made_once_a_seed_and_others_once(tmp_path):
    rows = by_row(read(tmp_path).cells(kind))
    seeds = {label: [c.seed for c in cells] for label, cells in rows.items()}
    assert seeds == {
        "ID": [1, 2], "text": [1, 2], "sim": [1], "pop": [1], "switch": [1, 2], "still": [1], "all": [1], "once": [1],
    }  # fmt: skip


def test_references_are_to_the_same_seed_to_all_or_to_the_only_one(tmp_path):
    cells = read(tmp_path).cells(kind)
    rows = by_row(cells)
    name = {(c.label, c.seed): c.name for c in cells}
    assert rows["switch"][1].settings["parts"] == {"sim": name["sim", 1], "seq": name["text", 2]}
    assert set(rows["switch"][1].needs) == {name["sim", 1], name["text", 2]}
    both = [name["text", 1], name["text", 2]]
    assert rows["all"][0].settings["parts"] == [both, name["pop", 1], [name["ID", 1], name["ID", 2]]]
    assert set(both) < set(rows["all"][0].needs)
    assert all("@" not in str(c.settings) for c in cells)


def test_a_reference_to_a_seed_that_is_not_made_is_told(tmp_path):
    text = FILE.replace("text: {model: TrainedText}", "text: {model: TrainedText, seeds: 2}").replace(
        "[1, 2]", "[1, 2, 3]"
    )
    with pytest.raises(UserError, match="'switch' of seed 3 refers to '@text', which has the seeds"):
        read(tmp_path, text).cells(kind)


def test_runs_that_read_text_are_made_once_an_encoder(tmp_path):
    cells = read(tmp_path, encoders="a,b").cells(kind)
    rows = by_row(cells)
    assert set(rows) == {
        "ID", "text [a]", "text [b]", "sim [a]", "sim [b]", "pop", "switch [a]", "switch [b]", "still [a]",
        "still [b]", "all [a]", "all [b]", "once",
    }  # fmt: skip
    assert rows["text [b]"][0].settings["text_encoder"] == "b"
    assert "text_encoder" not in rows["ID"][0].settings | rows["switch [a]"][0].settings
    name = {(c.label, c.seed): c.name for c in cells}
    assert rows["switch [b]"][0].settings["parts"] == {"sim": name["sim [b]", 1], "seq": name["text [b]", 1]}
    assert rows["still [a]"][0].settings["parts"] == [name["sim [a]", 1], name["pop", 1]]
    assert labels_of(cells, ["sim", "ID"]) == ["sim [a]", "sim [b]", "ID"]
    # a single one needs no suffix, and its run is that of the same settings without the key
    one = by_row(read(tmp_path, encoders=["a"]).cells(kind))
    assert set(one) == {"ID", "text", "sim", "pop", "switch", "still", "all", "once"}
    assert one["text"][0].settings["text_encoder"] == "a"
    assert one["ID"][0].name == rows["ID"][0].name
    # an encoder for all replaces the file's
    forced = by_row(read(tmp_path, "encoders: [a, b]" + FILE, text_encoder="c").cells(kind))
    assert forced["text"][0].settings["text_encoder"] == "c"


def test_a_run_may_say_that_it_reads_text_or_its_own_encoder(tmp_path):
    text = "encoders: [a, b]\nruns:\n  x: {model: Trained, text: true}\n  y: {model: TrainedText, text_encoder: c}\n"
    rows = by_row(read(tmp_path, text).cells(kind))
    assert set(rows) == {"x [a]", "x [b]", "y"} and rows["y"][0].settings["text_encoder"] == "c"
    assert "text" not in rows["x [a]"][0].settings


def test_only_some_rows_come_with_what_they_are_made_of(tmp_path):
    plan = read(tmp_path)
    assert set(by_row(plan.cells(kind, ["switch"]))) == {"text", "sim", "switch"}
    assert set(by_row(plan.cells(kind, ["pop", "ID"]))) == {"pop", "ID"}
    with pytest.raises(UserError, match="no run 'swich'") as caught:
        plan.cells(kind, ["swich"])
    assert caught.value.hint == "Did you mean 'switch'?"


def test_labels_with_commas_can_be_chosen():
    known = {"a", "a, b", "b", "c, d, e"}
    assert joined_labels(["a", "b"], known) == ["a, b"]  # what is written is the longer label
    assert joined_labels(["b", "c", "d", "e", "a"], known) == ["b", "c, d, e", "a"]
    assert joined_labels(["c", "d"], known) == ["c", "d"] and joined_labels([], known) == []


def test_a_folder_s_name_holds_its_settings(tmp_path):
    a, b = (by_row(read(tmp_path, **own).cells(kind))["ID"][0] for own in ({}, {"epochs": 3}))
    assert a.name != b.name and a.name.startswith("e-ID-seed1-")
    # what a run is made of is among them
    x, y = (
        by_row(read(tmp_path, FILE.replace("FreeText}", t)).cells(kind))["switch"][0].name
        for t in ("FreeText}", "FreeText, k: 1}")
    )
    assert x != y


@pytest.mark.parametrize(("said", "seeds"), [("1,2,3", [1, 2, 3]), ("7", [7]), ("[4, 5]", [4, 5]), ("0", [0])])
def test_seeds_as_a_command_line_gives_them(said, seeds):
    assert read_seeds(parse_value(said), "e") == seeds


@pytest.mark.parametrize("said", ["1,x", "1.5", "True", "[]", "-1", "1,,2", "", "1 2", "None", "[1, [2]]", str(2**32)])
def test_seeds_that_are_none_are_told(said):
    with pytest.raises(UserError, match="seeds is") as caught:
        read_seeds(parse_value(said), "e")
    assert "--seeds 1,2,3" in str(caught.value.hint)


def test_a_seed_twice_is_told():
    with pytest.raises(UserError, match="seed 2 is named twice"):
        read_seeds([2, 1, 2], "e")


def test_encoders_are_names_or_settings():
    assert read_encoders("a, b", "e") == {"a": {"text_encoder": "a"}, "b": {"text_encoder": "b"}}
    big = {"big": {"text_encoder": "sbert", "text_model": "m"}}
    assert read_encoders(big, "e") == big
    for wrong in ("a,", ["a", 1], 3, {"a": 1}):
        with pytest.raises(UserError, match="encoders"):
            read_encoders(wrong, "e")
    with pytest.raises(UserError, match="twice"):
        read_encoders("a,a", "e")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("runs: {x: {model: Trained, seeds: 0}}", "run 'x': seeds is 0"),
        ("runs: {x: {model: Trained, text: 3}}", "run 'x': text is 3"),
    ],
)
def test_what_a_run_says_of_itself_is_checked(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, change).cells(kind)


def test_a_generated_column_with_other_text_is_another_cell(tmp_path):
    experiment = read(tmp_path)
    names = []
    for digest in ("aa", "bb", "aa"):
        cells = experiment.cells(lambda label, s, d=digest: Kind(columns={"lamar": d} if label == "text" else {}))
        names.append({c.label: c.name for c in cells if c.seed == 1})
    assert names[0] == names[2] and names[0]["text"] != names[1]["text"] and names[0]["ID"] == names[1]["ID"]
