"""The pages on encoders and generators are true: the example plugin runs, and the tables name the keys that exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from recbole_llm.plugins import Plugin, PluginHouse
from recbole_llm.testing.encoders import EncoderContract

DOCS = Path(__file__).parents[2] / "docs"
BUNDLED = ["minilm", "sbert", "angle", "llm2vec", "openai", "precomputed", "hashing"]
GENERATORS = ["openai", "hf_local", "template", "replay"]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The plugin of the page, loaded as the house loads a plugin."""
    code = re.search(r"```python\n(.*?)```", (DOCS / "write-a-provider.md").read_text(), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    path = tmp_path_factory.mktemp("example") / "my_signals.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("my_signals", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_signals", module)
        spec.loader.exec_module(module)
        house = PluginHouse(bundled=False, installed=False)
        plugin = Plugin("my-signals", "my-signals 1.0")
        house.add(plugin, module)
        assert plugin.state == "ok", plugin.reason
        yield house.get("encoder", "ngrams")


class TestExample(EncoderContract):
    options = {"width": 64}
    changes = {"width": 65}

    @pytest.fixture(scope="class", autouse=True)
    def _example(self, example):
        type(self).encoder_class = example


@pytest.fixture(scope="module")
def house():
    return PluginHouse(disable=(), installed=False)


def test_bundled_encoders_are_registered_under_their_names(house):
    assert set(BUNDLED) <= set(house.registry.names("encoder"))
    for name in BUNDLED:
        assert house.get("encoder", name).name == name


@pytest.mark.parametrize("name", BUNDLED)
def test_page_names_every_key_of_an_encoder(house, name):
    page = (DOCS / "providers.md").read_text()
    section = re.search(rf"^## {name}\n(.*?)(?=^## )", page, re.M | re.S)[1]
    if name == "angle":
        assert "Keys as for `sbert`" in section
        section += re.search(r"^## sbert\n(.*?)(?=^## )", page, re.M | re.S)[1]
    keys = {f"text_{f.name}" for f in dataclasses.fields(house.get("encoder", name).Options)}
    missing = {k for k in keys if f"`{k}" not in section}
    assert not missing, f"docs/providers.md says nothing of {missing}"


def test_bundled_generators_are_registered_under_their_names(house):
    assert set(house.registry.names("generator")) == set(GENERATORS)
    assert [n for n in GENERATORS if house.get("generator", n).baseline] == ["template"]
    for name in GENERATORS:
        assert house.get("generator", name).name == name


@pytest.mark.parametrize("name", GENERATORS)
def test_page_names_every_key_of_a_generator(house, name):
    section = re.search(rf"^## Generator {name}\n(.*?)(?=^## )", (DOCS / "providers.md").read_text(), re.M | re.S)[1]
    keys = {f"gen_{f.name}" for f in dataclasses.fields(house.get("generator", name).Options)}
    missing = {k for k in keys if f"`{k}" not in section}
    assert not missing, f"docs/providers.md says nothing of {missing}"


def test_keys_of_the_house_are_not_taken(house):
    from recbole_llm import paths
    from recbole_llm.values import read_yaml

    declared = read_yaml(paths.yaml_dir() / "overall.yaml")
    for kind, prefix, names in (("encoder", "text", BUNDLED), ("generator", "gen", GENERATORS)):
        own = {k for k in declared if k.startswith(f"{prefix}_")}
        assert own, f"the house declares its {prefix} keys in overall.yaml"
        for name in names:
            taken = own & {f"{prefix}_{f.name}" for f in dataclasses.fields(house.get(kind, name).Options)}
            assert not taken, f"{name} takes {taken}"
