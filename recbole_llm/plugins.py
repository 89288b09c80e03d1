"""Finding plugins and collecting what they register.

Bundled modules (``recbole_llm_plugins``) are scanned; installed distributions announce theirs in the entry-point
group ``recbole_llm``. Each is loaded by itself: a broken one is kept with its reason and is fatal only when a
run asks for a name it might have registered.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from recbole_llm import hookspecs
from recbole_llm.errors import UserError, nearest
from recbole_llm.registry import Entry, Registry

BUNDLED = "recbole_llm_plugins"
GROUP = hookspecs.PROJECT

#: hook → kind, for the hooks called as ``register(name, target)``.
NAMED_HOOKS = {
    "register_encoders": "encoder",
    "register_generators": "generator",
    "register_recipes": "recipe",
    "register_reducers": "reducer",
    "register_datasets": "dataset",
    "register_models": "model",
}
HOOKS = {n for n, f in vars(hookspecs).items() if inspect.isfunction(f) and hasattr(f, f"{GROUP}_spec")}


@dataclass
class Plugin:
    """One plugin and how it fared: ``state`` is ``ok``, ``broken`` or ``blocked``."""

    name: str
    distribution: str
    state: str = "ok"
    reason: str = ""
    module: ModuleType | None = field(default=None, repr=False)


class PluginHouse:
    """Every plugin and everything registered.

    Args:
        disable: names of plugins (entry-point names, or bundled module names) to leave out; the default reads
            ``$RECBOLE_LLM_DISABLE``, separated by commas.
        bundled, installed: whether to look in these two places.
    """

    def __init__(self, disable: Iterable[str] | None = None, bundled: bool = True, installed: bool = True):
        if disable is None:
            disable = os.environ.get("RECBOLE_LLM_DISABLE", "").split(",")
        self.disabled = {d.strip() for d in disable if d.strip()}
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.registry = Registry()
        self.plugins: dict[str, Plugin] = {}
        self.config_dirs: list[tuple[Path, str]] = []
        if bundled:
            self._load_bundled()
        if installed:
            self._load_installed()

    # -- loading ---------------------------------------------------------------------------------------------
    def _load_bundled(self) -> None:
        package = importlib.import_module(BUNDLED)
        where = f"recbole-llm {_version('recbole-llm')}"
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                self._load(info.name, where, lambda m=f"{BUNDLED}.{info.name}": importlib.import_module(m))

    def _load_installed(self) -> None:
        for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
            dist = point.dist
            where = f"{dist.name} {dist.version}" if dist else "unknown distribution"
            self._load(point.name, where, point.load)

    def _load(self, name: str, distribution: str, load: Any) -> None:
        plugin = Plugin(name, distribution)
        if name in self.plugins:
            other = self.plugins[name].distribution
            plugin.state, plugin.reason = "broken", f"the plugin name is already taken by {other}"
            self.plugins[f"{name} [{distribution}]"] = plugin
            return
        self.plugins[name] = plugin
        if name in self.disabled:
            plugin.state, plugin.reason = "blocked", "RECBOLE_LLM_DISABLE"
            return
        try:
            module = load()
        except Exception as e:
            plugin.state, plugin.reason = "broken", f"{type(e).__name__}: {e}"
            return
        self.add(plugin, module)

    def add(self, plugin: Plugin, module: ModuleType) -> None:
        """Checks one loaded plugin module and collects what it registers; a fault marks it broken."""
        self.plugins[plugin.name] = plugin
        plugin.module = module
        fault = self._fault(module)
        if fault is None:
            try:
                self.manager.register(module, plugin.name)
                self._collect(plugin)
            except Exception as e:
                fault = e.message if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
        if fault is not None:
            plugin.state, plugin.reason = "broken", fault
            self.registry.drop(plugin.name)
            self.config_dirs = [c for c in self.config_dirs if c[1] != plugin.name]
            if self.manager.has_plugin(plugin.name):
                self.manager.unregister(name=plugin.name)

    @staticmethod
    def _fault(module: ModuleType) -> str | None:
        """What is wrong with a plugin module before any hook of it runs."""
        api = getattr(module, "HOOK_API", None)
        if api is None:
            return f"it does not say which hooks it was written for: add `HOOK_API = {hookspecs.HOOK_API}`"
        if api != hookspecs.HOOK_API:
            return f"it was written for HOOK_API {api!r}; this recbole-llm has {hookspecs.HOOK_API}"
        marked = [n for n, f in vars(module).items() if hasattr(f, f"{GROUP}_impl")]
        for hook in marked:
            if hook not in HOOKS:
                close = nearest(hook, HOOKS, 1)
                return f"there is no hook '{hook}'" + (f"; did you mean '{close[0]}'?" if close else "")
        if not marked:
            return "it implements no hook (mark functions with @recbole_llm.hookimpl)"
        return None

    def _collect(self, plugin: Plugin) -> None:
        module = plugin.module

        def entry(kind: str, name: str, target: Any) -> None:
            self.registry.add(Entry(kind, name, target, plugin.name, plugin.distribution))

        for hook, kind in NAMED_HOOKS.items():
            implementation = getattr(module, hook, None)
            if implementation is not None:
                implementation(register=lambda name, target, kind=kind: entry(kind, name, target))
        if hasattr(module, "register_metrics"):
            module.register_metrics(register=lambda metric: entry("metric", metric.name.lower(), metric))
        if hasattr(module, "register_config_dirs"):
            module.register_config_dirs(register=lambda path: self._add_dir(Path(path), plugin))

    def _add_dir(self, path: Path, plugin: Plugin) -> None:
        if not path.is_dir():
            raise UserError(f"its config directory {path} does not exist")
        self.config_dirs.append((path, plugin.name))

    # -- asking ----------------------------------------------------------------------------------------------
    def get(self, kind: str, name: str) -> Any:
        """The class registered as ``name``.

        Raises:
            UserError: nobody registered it. Broken and blocked plugins are named, since one of them may have.
        """
        return self.entry(kind, name).load()

    def entry(self, kind: str, name: str) -> Entry:
        """The entry registered as ``name``; raises as :meth:`get`."""
        try:
            return self.registry.entry(kind, name)
        except UserError as e:
            bad = [p for p in self.plugins.values() if p.state != "ok"]
            asked = [p for p in bad if p.name == name]
            lines = [f"{p.name} ({p.distribution}) is {p.state}: {p.reason}" for p in (asked or bad)]
            if lines:
                hint = "\n  ".join(filter(None, [e.hint, "Plugins that did not load:", *lines]))
                raise UserError(e.message, hint) from None
            raise


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


@lru_cache(maxsize=1)
def house() -> PluginHouse:
    """The plugins of this process, loaded once. ``house.cache_clear()`` after installing one in a notebook."""
    return PluginHouse()
