"""Finding plugins and collecting what they register.

Bundled modules (``recbole_llm_plugins``) are scanned; installed distributions announce theirs in the entry-point
group ``recbole_llm``. Each is loaded by itself: a broken one is kept with its reason and is fatal only when a
run asks for a name it registers or might have registered.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pluggy

import recbole_llm
from recbole_llm import hookspecs
from recbole_llm.errors import UserError, unknown
from recbole_llm.plugin_checks import entry_points, hook_fault, recbole_models, said, same
from recbole_llm.registry import Entry, Registry

BUNDLED = "recbole_llm_plugins"
DISABLE = "RECBOLE_LLM_DISABLE"

#: hook → kind, for the hooks called as ``register(name, target)``.
NAMED_HOOKS = {
    "register_encoders": "encoder",
    "register_generators": "generator",
    "register_recipes": "recipe",
    "register_reducers": "reducer",
    "register_datasets": "dataset",
    "register_models": "model",
}

#: What a folder given to ``register_config_dirs`` may hold.
YAML_TREE = ("overall.yaml", "model", "dataset", "prompt", "experiment")

log = logging.getLogger(__name__)


@dataclass
class Plugin:
    """One plugin and how it fared.

    Attributes:
        name: its entry point's name, or its bundled module's.
        distribution: the installed distribution it came with, and the version.
        state: ``ok``, ``broken`` or ``blocked``.
        reason: why it is not ``ok``.
        module: the object that holds its hooks.
        offered: the (kind, lower-case name) pairs it registered, or tried to before it broke.
    """

    name: str
    distribution: str
    state: str = "ok"
    reason: str = ""
    module: Any = field(default=None, repr=False)
    offered: list[tuple[str, str]] = field(default_factory=list, repr=False)

    @property
    def owner(self) -> str:
        return f"{self.name} ({self.distribution})"


class PluginHouse:
    """Every plugin and everything registered.

    Args:
        disable: what to leave out, by plugin name (entry point or bundled module) or by distribution name; the
            default reads ``$RECBOLE_LLM_DISABLE``, separated by commas.
        bundled, installed: whether to look in these two places.

    Attributes:
        registry: what the plugins registered.
        plugins: every plugin found, by name.
        config_dirs: ``(folder, plugin name)`` in loading order.
        idle: names asked to be disabled that no plugin has (a misspelt block would go unnoticed).
    """

    def __init__(self, disable: Iterable[str] | None = None, bundled: bool = True, installed: bool = True):
        self._blocked_by = DISABLE if disable is None else "the caller"
        if disable is None:
            disable = os.environ.get(DISABLE, "").split(",")
        self.disabled = {same(d): d.strip() for d in disable if d.strip()}
        self.idle = set(self.disabled.values())
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
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
        try:
            package = importlib.import_module(BUNDLED)
        except ModuleNotFoundError as e:
            raise UserError(
                f"This installation of recbole-llm lacks its bundled plugins ({e}).",
                "Run: pip install --force-reinstall --no-deps recbole-llm",
            ) from e
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                load = partial(importlib.import_module, f"{BUNDLED}.{info.name}")
                self._load(info.name, "recbole-llm", recbole_llm.__version__, load, bundled=True)

    def _load_installed(self) -> None:
        for name, dist, version, load in sorted(entry_points(), key=lambda found: found[:3]):
            self._load(name, dist, version, load)

    def _load(self, name: str, dist: str, version: str, load: Callable[[], Any], bundled: bool = False) -> None:
        plugin = Plugin(name, f"{dist} {version}".strip())
        holder = self.plugins.get(name)
        if holder is not None:
            plugin.name = f"{name} [{plugin.distribution}]"
        self.plugins[plugin.name] = plugin
        blocks = {self.disabled[n] for n in (same(name), same(dist)) if n in self.disabled}
        if blocks:
            self.idle -= blocks
            plugin.state, plugin.reason = "blocked", f"by {self._blocked_by}"
        elif holder is not None and holder.state != "blocked":
            plugin.state = "broken"
            plugin.reason = (
                f"there are two plugins named '{name}', of {holder.distribution} and of {plugin.distribution}"
            )
        else:
            try:
                # What a module prints while it is imported must not end up inside `recbole-llm plugins --json`.
                with contextlib.redirect_stdout(sys.stderr):
                    module = load()
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # a plugin may call sys.exit(), or raise what derives from BaseException
                plugin.state, plugin.reason = "broken", said(e)
                return
            self.add(plugin, module, bundled)

    def add(self, plugin: Plugin, module: Any, bundled: bool = False) -> None:
        """Checks one loaded plugin (a module, or an object with hooks) and collects what it registers. A fault
        marks it broken, and nothing of it stays registered."""
        self.plugins[plugin.name] = plugin
        plugin.module = module
        try:
            fault = hook_fault(self.manager, module)
            if fault is None:
                self.manager.register(module, plugin.name)
                with contextlib.redirect_stdout(sys.stderr):
                    self._collect(plugin, bundled)
        except KeyboardInterrupt:
            raise
        except UserError as e:
            fault = e.message
        except BaseException as e:
            fault = said(e)
        if fault is not None:
            plugin.state, plugin.reason = "broken", fault
            self.registry.drop(plugin.name)
            self.config_dirs = [c for c in self.config_dirs if c[1] != plugin.name]
            if self.manager.has_plugin(plugin.name):
                self.manager.unregister(name=plugin.name)

    def _collect(self, plugin: Plugin, bundled: bool) -> None:
        def entry(kind: str, name: Any, target: Any) -> None:
            plugin.offered.append((kind, str(name).lower()))
            if kind == "model" and not bundled and str(name).lower() in recbole_models():
                raise UserError(f"{plugin.owner} registers the model '{name}', a name of RecBole's own")
            self.registry.add(Entry(kind, name, target, plugin.name, plugin.distribution, bundled))

        def metric(target: Any) -> None:
            name = getattr(target, "name", None)
            if not isinstance(name, str):
                raise UserError(f"{plugin.name} registers {target!r}, which has no `name`, as a metric")
            entry("metric", name, target)

        for hook, kind in NAMED_HOOKS.items():
            self._call(hook, plugin.name, register=partial(entry, kind))
        self._call("register_metrics", plugin.name, register=metric)
        self._call("register_config_dirs", plugin.name, register=partial(self._add_dir, plugin))

    def _call(self, hook: str, plugin: str, **arguments: Any) -> None:
        """Calls one plugin's implementation of ``hook``, with those arguments it declares."""
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            if impl.plugin_name == plugin:
                impl.function(*(arguments[a] for a in impl.argnames))

    def _add_dir(self, plugin: Plugin, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        if not folder.is_absolute():
            raise UserError(
                f"its config directory '{path}' is relative to nothing: register Path(__file__).parent / '{path}'"
            )
        if not folder.is_dir():
            raise UserError(f"its config directory {folder} does not exist (is it package data of the distribution?)")
        if not any((folder / part).exists() for part in YAML_TREE):
            raise UserError(f"its config directory {folder} holds none of {', '.join(YAML_TREE)}")
        self.config_dirs.append((folder, plugin.name))

    # -- asking ----------------------------------------------------------------------------------------------
    def get(self, kind: str, name: str) -> Any:
        """The class registered as ``name``.

        Raises:
            UserError: nobody registered it. Broken and blocked plugins are named, since one of them may have.
        """
        return self.entry(kind, name).load()

    def entry(self, kind: str, name: str, others: Iterable[str] = ()) -> Entry:
        """The entry registered as ``name``; raises as :meth:`get`, with the nearest of ``others`` named too."""
        name = str(name)
        if self.registry.has(kind, name):
            return self.registry.entry(kind, name)
        failed = [p for p in self.plugins.values() if p.state != "ok"]
        for p in failed:
            if (kind, name.lower()) in p.offered:
                raise UserError(
                    f"The {kind} '{name}' comes with the plugin {p.owner}, which is {p.state}: {p.reason}.",
                    "It did not load: mend, update or uninstall that plugin.",
                )
        try:
            return self.registry.entry(kind, name)
        except UserError as error:
            e = unknown(kind, name, [*self.registry.names(kind), *others]) if others else error
            namesakes = [p for p in failed if same(name) in (same(p.name), same(p.distribution.rpartition(" ")[0]))]
            lines = [f"  {p.owner} is {p.state}: {p.reason}" for p in (namesakes or failed)]
            if not lines:
                raise e from None
            more = [f"  … and {len(lines) - 8} more: `recbole-llm plugins`"] if len(lines) > 8 else []
            head = "It may come with a plugin that did not load:"
            raise UserError(e.message, "\n  ".join(filter(None, [e.hint, head, *lines[:8], *more]))) from None

    def finished(self, run: Any) -> list[str]:
        """Tells every plugin that ``run`` is complete. What a plugin raises is logged as a warning and returned:
        the run is done, whatever a tracker thinks of it."""
        warnings = []
        for impl in self.manager.hook.run_finished.get_hookimpls():
            try:
                impl.function(*(run for _ in impl.argnames))
            except KeyboardInterrupt:
                raise
            except BaseException as e:
                warnings.append(f"The plugin {impl.plugin_name} failed in run_finished: {said(e)}")
                log.warning(warnings[-1])
        return warnings


@lru_cache(maxsize=1)
def house() -> PluginHouse:
    """The plugins of this process, loaded once. ``house.cache_clear()`` after installing one in a notebook."""
    return PluginHouse()
