"""The examples of docs/plugins.md are plugins that load."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm.plugins import Plugin, PluginHouse
from recbole_llm.testing.encoders import EncoderContract
from recbole_llm.testing.generators import GeneratorContract
from recbole_llm.testing.metrics import MetricContract
from recbole_llm.testing.reducers import ReducerContract

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## `(\w+)`\n(?:(?!^## ).*\n)*?```python\n((?:(?!```).*\n)*)```", TEXT, re.M))
CONTRACTS = {
    "register_encoders": (EncoderContract, "encoder_class"),
    "register_generators": (GeneratorContract, "generator_class"),
    "register_reducers": (ReducerContract, "reducer_class"),
    "register_metrics": (MetricContract, "metric_class"),
}


def module_of(hook: str, folder: Path) -> types.ModuleType:
    (folder / "yaml" / "model").mkdir(parents=True)
    module = types.ModuleType(f"example_{hook}")
    module.__file__ = str(folder / "plugin.py")
    exec(compile(EXAMPLES[hook], f"docs/plugins.md:{hook}", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("hook", re.findall(r"^## `(\w+)`", TEXT, re.M))
def test_every_example_loads(hook, tmp_path):
    house = PluginHouse(bundled=False, installed=False, disable=())
    plugin = Plugin("example", "docs 1")
    house.add(plugin, module_of(hook, tmp_path))
    assert (plugin.state, plugin.reason) == ("ok", "")
    assert hook == "run_finished" or len([*house.registry]) + len(house.config_dirs) == 1


@pytest.mark.parametrize("hook", CONTRACTS)
def test_examples_keep_their_contracts(hook, tmp_path):
    house = PluginHouse(bundled=False, installed=False, disable=())
    house.add(Plugin("example", "docs 1"), module_of(hook, tmp_path))
    (entry,) = house.registry
    contract, attribute = CONTRACTS[hook]
    instance = type("Contract", (contract,), {attribute: entry.load()})()
    ran = 0
    for name in dir(contract):
        method = getattr(contract, name)
        if name.startswith("test_") and method.__code__.co_argcount == 1:
            getattr(instance, name)()
            ran += 1
    assert ran >= 4


def test_the_finished_example_appends_a_line(tmp_path):
    run = types.SimpleNamespace(folder=tmp_path / "saved" / "a-run", metrics={"recall@10": 0.5})
    run.folder.mkdir(parents=True)
    house = PluginHouse(bundled=False, installed=False, disable=())
    house.add(Plugin("example", "docs 1"), module_of("run_finished", tmp_path / "x"))
    assert house.finished(run) == []
    assert (tmp_path / "saved" / "leaderboard.tsv").read_text() == "a-run\t{'recall@10': 0.5}\n"


def test_every_public_name_stands_on_the_page():
    for name in set(recbole_llm._WHERE) - {"run", "load", "Run"}:
        assert f"`{name}`" in TEXT, name
