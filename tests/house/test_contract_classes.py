"""The contract classes for plugin authors, on providers that keep the contract and on mutants that break it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from recbole_llm import Answer, Failure, Metric, Request, TextGenerator
from recbole_llm.plugins import house
from recbole_llm.testing.generators import GeneratorContract
from recbole_llm.testing.metrics import MetricContract, chosen, planted_ranking
from recbole_llm.testing.plugins import PluginContract
from recbole_llm.testing.reducers import ReducerContract
from recbole_llm.text.reduce import PCA, RandomProjection


@pytest.mark.parametrize("entry", [e for e in house().registry if e.kind == "metric"], ids=lambda e: e.name)
def test_bundled_metrics_keep_the_contract(entry):
    contract = type("Contract", (MetricContract,), {"metric_class": entry.load()})()
    for name in dir(MetricContract):
        if name.startswith("test_"):
            getattr(contract, name)()


class Hit(Metric):
    name = "myhit"

    def compute(self, ranking, topk):
        return {f"myhit@{k}": float(self.per_query(ranking, k).mean()) for k in topk}

    def per_query(self, ranking, k):
        return np.maximum.reduceat((ranking.ranks <= k).astype(float), ranking.offsets[:-1])


class TestHit(MetricContract):
    metric_class = Hit


class FirstQueryOnly(Hit):
    def per_query(self, ranking, k):
        return None

    def compute(self, ranking, topk):
        return {f"myhit@{k}": float(ranking.ranks[0]) for k in topk}


class Meddling(Hit):
    def compute(self, ranking, topk):
        found = super().compute(ranking, topk)
        ranking.ranks[:] += 1
        return found


class Total(Hit):
    def compute(self, ranking, topk):
        return {f"myhit@{k}": float(self.per_query(ranking, k).sum()) for k in topk}


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (FirstQueryOnly, "test_the_order_of_queries_does_not_matter"),
        (Meddling, "test_it_changes_nothing_and_repeats_itself"),
        (Total, "test_per_query_values_average_to_the_metric"),
    ],
)
def test_a_broken_metric_is_found(broken, test):
    contract = type("Contract", (MetricContract,), {"metric_class": broken})()
    with pytest.raises(AssertionError):
        getattr(contract, test)()


def test_planted_rankings_are_consistent():
    ranking = planted_ranking(200, positives=2)
    owner = np.repeat(np.arange(200), 2)
    for rank, target, q in zip(ranking.ranks, ranking.targets, owner):
        inside = rank <= min(20, ranking.n_candidates[q])
        assert (target in ranking.top[q]) == inside or rank > 20
        if rank == ranking.n_items + 1:
            assert target not in ranking.top[q]
    assert (ranking.ranks == ranking.n_items + 1).any() and (ranking.top == 0).any()
    part = chosen(ranking, np.array([5, 3]))
    assert part.ranks.tolist() == [*ranking.ranks[10:12], *ranking.ranks[6:8]]


class TestPCA(ReducerContract):
    reducer_class = PCA


class TestRandomProjection(ReducerContract):
    reducer_class = RandomProjection


class BatchCentred(PCA):
    def transform(self, x):
        return super().transform(x) - super().transform(x).mean(0, keepdims=True) if len(x) else super().transform(x)


class Forgetful(PCA):
    def state(self):
        return {k: v[:1] * 0 + 1 if v.ndim == 2 else v for k, v in super().state().items()}


class InPlace(PCA):
    def fit(self, x, labels=None):
        x -= 1
        return super().fit(x, labels)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (BatchCentred, "test_a_row_does_not_depend_on_the_others"),
        (Forgetful, "test_its_state_survives_without_pickle"),
        (InPlace, "test_the_callers_array_is_not_changed"),
    ],
)
def test_a_broken_reducer_is_found(broken, test):
    contract = type("Contract", (ReducerContract,), {"reducer_class": broken})()
    with pytest.raises((AssertionError, ValueError, TypeError)):
        getattr(contract, test)()


@dataclass
class Options:
    prefix: str = field(default="you said: ", metadata={"help": "What every answer begins with."})


class Parrot(TextGenerator):
    Options = Options

    def fingerprint(self) -> dict[str, Any]:
        return {"provider": "parrot", "prefix": self.options.prefix}

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        for i in reversed(range(len(requests))):
            text = requests[i].messages[-1]["content"]
            yield i, Answer(self.options.prefix + text) if text else Failure("nothing to repeat")


class TestParrot(GeneratorContract):
    generator_class = Parrot
    changes = {"prefix": "again: "}


class Twice(Parrot):
    def generate(self, requests):
        for found in super().generate(requests):
            yield found
            yield found


class Silent(Parrot):
    def fingerprint(self):
        return {"provider": "parrot"}


class OneForAll(Parrot):
    """Its threads share the request they work on."""

    concurrency = 4

    def generate(self, requests):
        for i in range(len(requests)):
            self.asked = requests[i]
            time.sleep(0.002)
            yield i, Answer(str(self.asked.messages[-1]["content"]) + str(self.asked.params.get("seed")))


class Meddling(Parrot):
    def generate(self, requests):
        for request in requests:
            request.params["seed"] = 7
        yield from super().generate(requests)


class ReadsInSecret(Parrot):
    def generate(self, requests):
        for i, request in enumerate(requests):
            yield i, Answer(str(request.record.get("item_id")))


class Uncounted(Parrot):
    def generate(self, requests):
        for i, _ in enumerate(requests):
            yield i, Answer("x", tokens_out=-1)


class OddEnd(Parrot):
    def generate(self, requests):
        for i, _ in enumerate(requests):
            yield i, Answer("x", finish="because")


class Unwritten(Parrot):
    def generate(self, requests):
        for i, request in enumerate(requests):
            yield i, Answer("x", raw=request)


class FirstSampleOnly(Parrot):
    def generate(self, requests):
        return (f for f in super().generate(requests) if not requests[f[0]].sample)


class Drifting(Parrot):
    asked = 0

    def fingerprint(self):
        return {**super().fingerprint(), "asked": self.asked}

    def generate(self, requests):
        self.asked += 1
        yield from super().generate(requests)


class NoCount(Parrot):
    def count_tokens(self, requests):
        return [0 for _ in requests]


class LosesKeys(Parrot):
    batch_lines = 10

    def to_batch(self, key, request):
        return {"messages": list(request.messages)}


class WantsTooMuch(Parrot):
    wants_vectors = True


@dataclass
class Key:
    prefix: str = field(default="", metadata={"help": "What every answer begins with."})
    api_key: str = field(default="", metadata={"help": "The key itself."})


class TakesKey(Parrot):
    Options = Key


class Leaky(Parrot):
    @dataclass
    class Options:
        prefix: str = field(default="", metadata={"help": "What every answer begins with."})
        key_env: str = field(default="SOME_KEY", metadata={"help": "Name of a variable."})

    def fingerprint(self):
        return {**super().fingerprint(), "key": os.environ.get(self.options.key_env)}


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Twice, "test_every_request_is_answered_once"),
        (Silent, "test_fingerprint_names_what_changes_its_output"),
        (OneForAll, "test_several_threads_may_ask_where_it_says_so"),
        (Meddling, "test_the_callers_requests_are_not_changed"),
        (ReadsInSecret, "test_only_who_says_so_reads_records"),
        (Uncounted, "test_answers_say_what_they_cost_and_how_they_ended"),
        (OddEnd, "test_answers_say_what_they_cost_and_how_they_ended"),
        (Unwritten, "test_answers_say_what_they_cost_and_how_they_ended"),
        (FirstSampleOnly, "test_a_further_sample_is_answered"),
        (Drifting, "test_fingerprint_is_stable"),
        (NoCount, "test_tokens_are_counted"),
        (LosesKeys, "test_batch_files_hold_requests"),
        (WantsTooMuch, "test_limits_and_remote_are_declared"),
        (TakesKey, "test_options_are_typed_and_explained"),
        (Leaky, "test_fingerprint_holds_no_secret"),
    ],
)
def test_a_broken_generator_is_found(broken, test):
    contract = type("Contract", (GeneratorContract,), {"generator_class": broken, "changes": {"prefix": "x"}})()
    with pytest.raises((AssertionError, TypeError)):
        getattr(contract, test)()


def test_a_plugin_that_is_heavy_or_broken_is_found(install):
    heavy = "import torch\n@hookimpl\ndef register_encoders(register): register('h', Encoder)"
    install("heavy-one", heavy)
    install("broken-one", "@hookimpl\ndef register_encoder(register): pass")
    house.cache_clear()
    try:
        plugins = house()
        contract = type("Contract", (PluginContract,), {"plugin": "heavy-one"})()
        contract.test_it_loads(plugins)
        with pytest.raises(AssertionError, match="imports torch"):
            contract.test_listing_it_imports_nothing_heavy(plugins)
        with pytest.raises(AssertionError, match="did you mean"):
            type("Contract", (PluginContract,), {"plugin": "broken-one"})().test_it_loads(plugins)
        with pytest.raises(AssertionError, match="is not installed"):
            type("Contract", (PluginContract,), {"plugin": "absent"})().test_it_loads(plugins)
    finally:
        house.cache_clear()
