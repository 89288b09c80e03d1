"""What any plugin must keep, as a test class. Install the plugin, subclass, run pytest:

.. code-block:: python

    from recbole_llm.testing.plugins import PluginContract

    class TestPlugin(PluginContract):
        plugin = "my-signals"  # the name of its entry point
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import ClassVar

import pytest

from recbole_llm.plugins import Plugin, PluginHouse, house
from recbole_llm.registry import Entry
from recbole_llm.testing.network import HEAVY


class PluginContract:
    """Set :attr:`plugin` to the name of the entry point."""

    plugin: ClassVar[str]

    @pytest.fixture
    def plugins(self) -> PluginHouse:
        house.cache_clear()
        return house()

    def found(self, plugins: PluginHouse) -> Plugin:
        known = ", ".join(plugins.plugins)
        assert self.plugin in plugins.plugins, f"'{self.plugin}' is not installed (pip install -e .); there are {known}"
        return plugins.plugins[self.plugin]

    def entries(self, plugins: PluginHouse) -> list[Entry]:
        return [e for e in plugins.registry if e.plugin == self.plugin]

    def test_it_loads(self, plugins: PluginHouse) -> None:
        plugin = self.found(plugins)
        assert plugin.state == "ok", plugin.reason

    def test_every_name_it_registers_can_be_asked_for(self, plugins: PluginHouse) -> None:
        self.found(plugins)
        for entry in self.entries(plugins):
            assert plugins.get(entry.kind, entry.name) is entry.load()

    def test_its_keys_and_yaml_files_can_be_read(self, plugins: PluginHouse) -> None:
        from recbole_llm.settings import Catalogue

        self.found(plugins)
        keys = [k for declared in Catalogue(plugins).keys.values() for k in declared if k.owner == self.plugin]
        for key in keys:
            assert key.kind.fault(key.default) is None, f"{key.scope}, {key.name}: its default breaks its own rule"

    def test_listing_it_imports_nothing_heavy(self, plugins: PluginHouse) -> None:
        """`recbole-llm plugins` runs every plugin's module: heavy packages belong inside methods."""
        others = [n for n in plugins.plugins if n != self.plugin]
        code = (
            "import json, sys\n"
            "from recbole_llm.plugins import PluginHouse\n"
            f"loaded = PluginHouse(disable={others!r}, bundled=False).plugins[{self.plugin!r}]\n"
            f"print(json.dumps([loaded.state, sorted(set({HEAVY!r}) & set(sys.modules))]))\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        state, heavy = json.loads(done.stdout.splitlines()[-1])
        assert state == "ok"
        assert not heavy, f"importing the plugin imports {', '.join(heavy)}"
