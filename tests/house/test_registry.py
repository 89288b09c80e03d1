"""Names, owners, case, and lookups."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from recbole_llm import Metric, TextEncoder
from recbole_llm.errors import UserError, nearest, unknown
from recbole_llm.registry import KINDS, Entry, Registry, contract_fault


class Encoder(TextEncoder):
    def encode(self, texts):
        return np.zeros((len(texts), 1), dtype=np.float32)

    def fingerprint(self):
        return {}


class Ndcg(Metric):
    name = "ndcg"

    def compute(self, ranking, topk):
        return {}


def entry(name, kind="model", target="m:M", plugin="p", bundled=False):
    return Entry(kind, name, target, plugin, f"{plugin}-dist 1", bundled)


def test_metrics_are_found_in_any_case_and_nothing_else_is():
    r = Registry()
    r.add(entry("ndcg", "metric", Ndcg))
    r.add(entry("SemNISER"))
    assert r.get("metric", "NDCG") is Ndcg
    assert r.has("model", "SemNISER") and not r.has("model", "semniser")
    with pytest.raises(UserError) as e:
        r.entry("model", "semniser")
    assert e.value.hint == "Did you mean SemNISER?"


def test_names_that_differ_only_in_case_are_one_name():
    """They would share a yaml file on a file system that ignores case."""
    r = Registry()
    r.add(entry("SASRec", plugin="ours", bundled=True))
    with pytest.raises(UserError, match=re.escape("by ours (ours-dist 1) and by other (other-dist 1)")):
        r.add(entry("SasRec", plugin="other"))
    assert r.entry("model", "SASRec").plugin == "ours"
    assert not r.contested("model", "SASRec")


def test_one_name_may_stand_under_two_kinds():
    r = Registry()
    r.add(entry("pca", "reducer", "m:P"))
    r.add(entry("pca", "dataset", "m:P"))
    assert r.names("reducer") == r.names("dataset") == ["pca"]


def test_a_plugin_that_registers_a_name_twice_is_refused_and_the_name_is_not_contested():
    r = Registry()
    r.add(entry("A"))
    with pytest.raises(UserError, match="registered twice"):
        r.add(entry("A"))
    assert not r.contested("model", "A")


def test_three_owners_are_all_named():
    r = Registry()
    r.add(entry("A", plugin="p1"))
    for plugin in ("p2", "p3"):
        with pytest.raises(UserError):
            r.add(entry("A", plugin=plugin))
    with pytest.raises(UserError) as e:
        r.entry("model", "A")
    assert all(f"p{i} (p{i}-dist 1)" in e.value.message for i in (1, 2, 3))


@pytest.mark.parametrize("name", ["a b", "a/b", "..", ".a", "-a", "a@10", "a:b", "", "ä", "a\n", 3, None])
def test_what_is_no_name(name):
    with pytest.raises(UserError, match="not a name"):
        Registry().add(entry(name, "dataset"))


@pytest.mark.parametrize("name", ["ml-1m-10min", "Musical_Instruments", "amazon-m2-uk", "30music", "v1.5"])
def test_names_of_real_datasets(name):
    r = Registry()
    r.add(entry(name, "dataset"))
    assert r.names("dataset") == [name]


@pytest.mark.parametrize("target", ["m", "m.M", "m:", ":M", "m:M()", "m: M", "m/x:M", "m:M:N"])
def test_what_is_no_target(target):
    with pytest.raises(UserError, match=re.escape("not 'package.module:Class'")):
        Registry().add(entry("M", target=target))


def test_dropping_a_plugin_frees_its_names():
    r = Registry()
    r.add(entry("A", plugin="p1"))
    r.add(entry("B", plugin="p2"))
    r.drop("p1")
    assert r.names("model") == ["B"]
    r.add(entry("A", plugin="p3"))
    assert r.entry("model", "A").plugin == "p3"


class Outer:
    class Inner(Encoder):
        pass


def test_nested_classes_can_be_targets(monkeypatch):
    module = types.ModuleType("holds_outer")
    module.Outer = Outer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "holds_outer", module)
    assert Entry("encoder", "e", "holds_outer:Outer.Inner", "p", "d 1").load() is Outer.Inner


def test_models_are_checked_without_importing_torch():
    code = (
        "import sys; from recbole_llm.registry import contract_fault;"
        "assert 'SessionEncoder' in contract_fault('model', dict); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import torch

    assert contract_fault("model", torch.nn.Linear) is None
    assert contract_fault("model", dict) is not None


def test_iteration_is_by_kind_then_name():
    r = Registry()
    for kind, name in (("model", "B"), ("dataset", "z"), ("model", "A"), ("encoder", "e")):
        r.add(entry(name, kind))
    assert [(e.kind, e.name) for e in r] == [("encoder", "e"), ("dataset", "z"), ("model", "A"), ("model", "B")]


def test_an_unknown_kind_is_our_mistake():
    with pytest.raises(ValueError, match="unknown kind"):
        Registry().add(entry("A", "modle"))
    assert "config_dir" in KINDS


def test_nearest_names():
    assert nearest("MINILN", ["minilm", "sbert"]) == ["minilm"]
    assert nearest("zzz", ["minilm"]) == []
    assert unknown("encoder", "x", []).hint == "Known: (none)."
    assert unknown("model", "q", [f"M{i}" for i in range(100)]).hint.startswith("100 are known")


def test_options_cannot_take_a_key_of_the_house():
    @dataclasses.dataclass
    class Options:
        dim: int = 3

    encoder = type("E", (TextEncoder,), {"encode": lambda s, t: t, "fingerprint": lambda s: {}, "Options": Options})
    assert "'text_dim' is a key of recbole-llm" in contract_fault("encoder", encoder)
