"""Every key of RecBole's properties and ours has an owner, a type, and refuses what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from recbole.utils import get_model

from recbole_llm.bridge.config import Config
from recbole_llm.bridge.layers import parse_command_line
from recbole_llm.bridge.model_names import chosen_class
from recbole_llm.errors import UserError
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.plugins import house
from recbole_llm.settings import Catalogue, catalogue, provider_options, recbole_properties
from recbole_llm.testing.session_encoders import ToyConfig, ToyDataset
from recbole_llm.text.contracts import TextEncoder
from recbole_llm.values import Kind, parse_value, read_yaml

KEYS = [key for keys in catalogue(house()).keys.values() for key in keys]
WRONG = {"int": "abc", "float": "abc", "bool": "abc", "str": 7, "list": 7, "dict": 7}


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.scope}/{k.name}")
def test_every_key_has_an_owner_and_checks_its_type_and_range(key):
    assert key.owner
    assert key.kind.fault(key.default) is None
    own = Catalogue.__new__(Catalogue)
    own.keys = {key.name: [key]}
    words = {w.removeprefix("list of ") if w.startswith("list of ") else w for w in key.kind.types}
    if "any" in words:
        pytest.skip("declared to accept anything")
    wrong = next((WRONG[w] for w in WRONG if w in words and all(key.kind.fault(WRONG[w]) for _ in [0])), None)
    if wrong is not None:
        with pytest.raises(UserError, match=f"'{key.name}'.*must (be|lie in)"):
            own.check({key.name: wrong}, {key.name: "a test"}, [key.scope])
    assert wrong is not None or "str" in words  # only strings take every word of a command line
    if key.kind.range is not None:
        outside = key.kind.range.low - 1 if key.kind.range.low > -float("inf") else key.kind.range.high + 1
        value = int(outside) if "int" in words else outside
        value = (
            [value]
            if not words & {"int", "float"} or set(key.kind.types) <= {"list of int", "list of float", "none"}
            else value
        )
        with pytest.raises(UserError, match="must lie in"):
            own.check({key.name: value}, {key.name: "a test"}, [key.scope])
    if key.kind.choices:
        with pytest.raises(UserError, match="must be one of"):
            own.check({key.name: "no such choice"}, {}, [key.scope])


@pytest.mark.parametrize("path", sorted(recbole_properties().rglob("*.yaml")), ids=lambda p: p.name)
def test_every_properties_yaml_of_recbole_loads(path):
    ours = read_yaml(path)
    assert set(ours) == set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    assert all(isinstance(v, float) for k, v in ours.items() if k in ("layer_norm_eps", "reg_weight") and v == 1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1", 1), ("[5,10]", [5, 10]), ("None", None), ("~", None), ("True", True), ("true", True),
        ("{'RS': [0.8, 0.1, 0.1]}", {"RS": [0.8, 0.1, 0.1]}), ("{RS: [0.8]}", {"RS": [0.8]}), ("a=b", "a=b"),
        ("NDCG@10", "NDCG@10"), ("", ""), ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("[1e-3, x]", [0.001, "x"]), ("a.yaml b.yaml", "a.yaml b.yaml"), ("null", None), ("# {title}", "# {title}"),
        ("title # 1", "title # 1"),
    ],
)  # fmt: skip
def test_values_are_literals_then_yaml_and_never_evaluated(text, value):
    assert parse_value(text) == value


def test_command_line_takes_both_forms_and_refuses_what_it_cannot_read():
    assert parse_command_line(["--a=1", "--b", "2", "-m", "X", "--c=x=y"]) == {
        "a": "1",
        "b": "2",
        "model": "X",
        "c": "x=y",
    }
    for words in (["--a"], ["a"], ["--a=1", "--a=2"]):
        with pytest.raises(UserError):
            parse_command_line(words)


def test_later_levels_win_and_the_origin_is_told(planted):
    (planted / "a.yaml").write_text("epochs: 3\nlearning_rate: 1e-4\n", encoding="utf-8")
    (planted / "yaml" / "model").mkdir(parents=True)
    (planted / "yaml" / "model" / "NISER.yaml").write_text("epochs: 2\nstopping_step: 7\n", encoding="utf-8")
    config = Config("NISER", "planted", ["a.yaml"], {"learning_rate": "5e-4", "seed": 1}, {"seed": "2"})
    assert (config["epochs"], config["learning_rate"], config["seed"], config["stopping_step"]) == (3, 5e-4, 2, 7)
    assert config.origin["epochs"] == "a.yaml"
    assert config.origin["learning_rate"] == "config_dict"
    assert config.origin["seed"] == "the command line"
    assert config.origin["stopping_step"].endswith("NISER.yaml")
    assert config.origin["weight_decay"] == "RecBole: overall.yaml"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"embeding_size": 9}, "embedding_size"),
        ({"epochs": "abc"}, "must be int"),
        ({"epochs": -3}, "must lie in"),
        ({"topk": [0]}, "must lie in"),
        ({"metrics": ["Recal"]}, "recall"),
        ({"split_by": "users"}, "must be one of"),
        ({"split_by": "user", "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "contradict"),
        ({"text_api_key": "x"}, "text_api_key_env"),
        ({"learner": "adm"}, "must be one of"),
        ({"eval_args": {"order": "RO"}}, "ordered by time"),
        ({"eval_args": {"mode": "labeled"}}, "no items to rank"),
        ({"eval_args": {"mode": "uniform"}}, "uniform"),
        ({"split_by": "user", "benchmark_filename": ["a", "b", "c"]}, "contradict"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}, "popularity_from": "all"}, "needs a split_by"),
        ({"train_stage": "pretrain"}, "pickles"),
    ],
)
def test_bad_settings_are_refused_with_what_to_do(planted, settings, says):
    with pytest.raises(UserError) as e:
        Config("NISER", "planted", config_dict=settings)
    assert says in str(e.value)


def test_a_key_of_another_model_is_a_warning(planted):
    config = Config("NISER", "planted", config_dict={"n_heads": 4})
    assert any("n_heads" in w for w in config.warnings)


def test_unknown_model_names_the_nearest(planted):
    with pytest.raises(UserError, match="SASRec"):
        Config("SASrec", "planted")
    with pytest.raises(UserError, match="NISER"):
        Config("NISSER", "planted")


def test_sys_argv_is_not_read(planted, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--epochs=99", "--nonsense"])
    assert Config("NISER", "planted")["epochs"] != 99


def test_general_models_mask_seen_items_as_recbole_does(planted):
    assert Config("BPR", "planted")["mask_seen"] is True
    assert Config("NISER", "planted")["mask_seen"] is False


def test_bad_yaml_names_the_line(planted):
    (planted / "bad.yaml").write_text("epochs: 3\n  x: [\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.yaml.*line"):
        Config("NISER", "planted", "bad.yaml")
    with pytest.raises(UserError, match="Cannot read"):
        Config("NISER", "planted", "missing.yaml")


def test_provider_options_are_typed():
    @dataclasses.dataclass
    class Options:
        width: int = dataclasses.field(default=3, metadata={"range": (1, 8)})
        names: list[str] | None = None

    class Encoder(TextEncoder):
        pass

    Encoder.Options = Options
    assert provider_options(Encoder, "text", {"text_width": 4, "text_names": ["a"]}) == Options(4, ["a"])
    assert provider_options(Encoder, "text", {}) == Options()
    for bad in ({"text_width": "x"}, {"text_width": 9}, {"text_names": "a"}):
        with pytest.raises(UserError):
            provider_options(Encoder, "text", bad)


def test_kinds_read_the_comments_of_yaml_files():
    kind = Kind.parse("int or None", "[1,inf)")
    assert kind.fault(None) is None and kind.fault(1) is None
    assert kind.fault(0) and kind.fault(True) and kind.fault(1.5)
    assert Kind.parse("str", "a|b").fault("c")
    assert Kind.parse("list of float").fault([1, "x"])


class Unlisted(SessionModel):
    """A model that no yaml speaks of: RecBole's default would sample a negative a click."""


@pytest.mark.parametrize("model", ["NISER", "SASRec", "SemSR", Unlisted])
def test_a_model_of_ours_never_learns_from_sampled_negatives(model, planted):
    """RecBole appends them as further rows with label 0, which a cross-entropy over all items would take for clicks."""
    assert Config(model, "planted")["train_neg_sample_args"]["distribution"] == "none"
    said = Config(model, "planted", None, {"train_neg_sample_args": None})
    assert said["train_neg_sample_args"]["distribution"] == "none"
    with pytest.raises(UserError, match=r"samples no negatives; train_neg_sample_args is \{"):
        Config(model, "planted", None, {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}})
    stock = Config("recbole.SASRec", "planted", None, {"loss_type": "BPR"})
    assert stock["train_neg_sample_args"]["sample_num"] == 1


def test_a_recbole_class_may_stand_for_the_name_its_run_has():
    theirs = get_model("SASRec")
    assert chosen_class({"model": "recbole.SASRec"}, theirs) is theirs
    assert chosen_class({"model": "Caser"}, get_model("Caser")) is get_model("Caser")
    for other in (get_model("GRU4Rec"), "SASRec"):
        with pytest.raises(UserError, match=r"a run of the model recbole\.SASRec, not"):
            chosen_class({"model": "recbole.SASRec"}, other)


@pytest.mark.parametrize("model, named", [("SASRec", True), ("NISER", False)])
def test_a_loss_of_recboles_names_its_network_where_there_is_one(model, named):
    with pytest.raises(UserError) as found:
        session_model_for(house().get("model", model))(ToyConfig(loss_type="BPR"), ToyDataset())
    assert (f"--model=recbole.{model}" in found.value.hint) == named
