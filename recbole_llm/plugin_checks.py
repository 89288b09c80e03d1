"""Reading entry points one distribution at a time, and judging a plugin before any hook of it runs."""

from __future__ import annotations

import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from recbole_llm import hookspecs
from recbole_llm.errors import nearest

GROUP = hookspecs.PROJECT
HOOKS = {n for n, f in vars(hookspecs).items() if inspect.isfunction(f) and hasattr(f, f"{GROUP}_spec")}


def entry_points() -> Iterator[tuple[str, str, str, Callable[[], Any]]]:
    """``(name, distribution, version, load)`` of every entry point of the group.

    Distributions are read one at a time: ``metadata.entry_points`` raises for all of them when one is damaged.
    """
    seen = set()
    for dist in metadata.distributions():
        try:
            # The text is looked at before it is parsed: an environment has hundreds of distributions.
            if f"[{GROUP}]" not in (dist.read_text("entry_points.txt") or ""):
                continue
            name, version = dist.metadata["Name"], dist.version or ""
            if not name:
                raise ValueError("its metadata gives no name")
            points = list(dist.entry_points.select(group=GROUP))
        except Exception as e:
            where = str(getattr(dist, "_path", "a damaged distribution"))
            yield Path(where).name, where, "", partial(_raise, e)
            continue
        if same(name) not in seen:  # the first on sys.path is the one that is imported
            seen.add(same(name))
            for point in points:
                yield point.name, name, version, point.load


@lru_cache(maxsize=1)
def recbole_models() -> frozenset[str]:
    """RecBole's models, in lower case, read from its file names: nothing of RecBole is imported."""
    spec = importlib.util.find_spec("recbole")
    folders = Path(spec.origin).parent.glob("model/*_recommender/*.py") if spec and spec.origin else ()
    return frozenset(p.stem.lower() for p in folders) - {"__init__"}


def _raise(error: Exception) -> None:
    raise error


def hook_fault(manager: pluggy.PluginManager, module: Any) -> str | None:
    """What is wrong with a plugin before any hook of it runs."""
    api = getattr(module, "HOOK_API", None)
    if api is None:
        return f"it does not say which hooks it was written for: add `HOOK_API = {hookspecs.HOOK_API}`"
    if type(api) is not int or api != hookspecs.HOOK_API:
        return f"it was written for HOOK_API {api!r}; this recbole-llm has {hookspecs.HOOK_API}"
    twin = manager.get_name(module)
    if twin is not None:
        return f"it is the same module as the plugin '{twin}'"
    marked = 0
    for name in dir(module):
        options: Any = manager.parse_hookimpl_opts(module, name)
        if options is None:
            if _looks_like_hook(module, name):
                return f"'{name}' is not marked: write @recbole_llm.hookimpl above it" + _meant(name)
            continue
        marked += 1
        hook = options.get("specname") or name
        if hook not in HOOKS and not options.get("optionalhook"):
            return f"there is no hook '{hook}'" + _meant(hook)
        if options.get("wrapper") or options.get("hookwrapper"):
            return f"'{name}' is a hook wrapper; hooks of recbole-llm are called one plugin at a time"
    return None if marked else "it implements no hook (mark functions with @recbole_llm.hookimpl)"


def _looks_like_hook(module: Any, name: str) -> bool:
    """Whether an unmarked attribute is a hook, or a misspelt one, whose author forgot the marker."""
    function = getattr(module, name, None)
    if not inspect.isroutine(function):
        return False
    if name in HOOKS:
        return True
    if not name.startswith("register_") or getattr(function, "__module__", "") != getattr(module, "__name__", None):
        return False
    try:
        return list(inspect.signature(function).parameters) == ["register"]
    except (TypeError, ValueError):
        return False


def _meant(hook: str) -> str:
    close = [] if hook in HOOKS else nearest(hook, HOOKS, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def said(error: BaseException) -> str:
    """One line: the error's class, what it says, and the innermost place outside the house and the import system."""
    text = re.sub(r"\s*\n\s*", "; ", str(error).strip())
    text = text if len(text) <= 300 else text[:299] + "…"
    here = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _outside(f.filename, here)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _outside(filename: str, house: Path) -> bool:
    path = Path(filename)
    return not filename.startswith("<") and path.parent != house and not {"importlib", "pluggy"} & set(path.parts)


def same(name: str) -> str:
    """Names as packaging compares them: case, ``-``, ``_`` and ``.`` do not tell them apart."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
