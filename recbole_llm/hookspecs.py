"""The hooks a plugin may implement. Each gets a ``register`` callback and calls it once a thing it offers.

A plugin is a module with ``HOOK_API = 1`` and functions marked ``@recbole_llm.hookimpl``; a pip-installed
distribution names it in the entry-point group ``recbole_llm``. The ``register_*`` hooks are called once a process,
when plugins are first needed, also by ``recbole-llm plugins``: keep heavy imports inside methods. What they register
is built only when a run asks for it by name. docs/plugins.md has a page a hook.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from recbole_llm.runner import Run

PROJECT = "recbole_llm"
HOOK_API = 1
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[str, Any], None]


@hookspec
def register_encoders(register: Register) -> None:
    """``register(name, EncoderClass)``: a :class:`recbole_llm.TextEncoder`, chosen by ``--text_encoder=name``."""


@hookspec
def register_generators(register: Register) -> None:
    """``register(name, GeneratorClass)``: a :class:`recbole_llm.TextGenerator`, chosen by ``--text_generator``."""


@hookspec
def register_recipes(register: Register) -> None:
    """``register(name, RecipeClass)``: a :class:`recbole_llm.Recipe`, run by ``recbole-llm generate --recipe``."""


@hookspec
def register_reducers(register: Register) -> None:
    """``register(name, ReducerClass)``: scikit-learn's ``fit``/``transform``, chosen by ``--text_reducer=name``."""


@hookspec
def register_datasets(register: Register) -> None:
    """``register(name, ConverterClass)``: a :class:`recbole_llm.Converter` from raw files to atomic files."""


@hookspec
def register_models(register: Register) -> None:
    """``register("Class", "package.module:Class")``: imported only when run. A
    :class:`recbole_llm.SessionEncoder` registered here is also a ``--backbone``."""


@hookspec
def register_metrics(register: Callable[[Any], None]) -> None:
    """``register(MetricClass)``: a :class:`recbole_llm.Metric`; its ``name`` is the name in ``metrics``."""


@hookspec
def register_config_dirs(register: Callable[[str | Path], None]) -> None:
    """``register(path)``: a folder shaped like ``yaml/`` (``overall.yaml``, ``model/``, ``dataset/`` …)."""


@hookspec
def run_finished(run: Run) -> None:
    """Called after a run folder is complete (a tracker, a chat message, a leaderboard). An exception raised
    here is reported as a warning and never fails the run."""
