"""``recbole-llm plugins``: everything registered, by whom, and what did not load and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from recbole_llm.plugins import PluginHouse, house
from recbole_llm.registry import KINDS

NAME = "plugins"
HELP = "list encoders, models, datasets, metrics … with their owner, and plugins that did not load with the reason"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    plugins = house()
    found = listing(plugins, args.kind)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    rows = [(e["kind"], e["name"], e["distribution"], e["state"], e["plugin"]) for e in found["entries"]]
    print(table(("kind", "name", "distribution", "state", "plugin"), rows))
    failed = [p for p in found["plugins"] if p["state"] != "ok"]
    if failed:
        print("\nPlugins that did not load (nothing of theirs is registered):")
        for p in failed:
            print(f"  {p['name']} ({p['distribution']}) is {p['state']}: {p['reason']}")
    if plugins.idle:
        print(f"\nRECBOLE_LLM_DISABLE names what no plugin is called: {', '.join(sorted(plugins.idle))}")
    return 0


def listing(plugins: PluginHouse, kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """``{"plugins": [name, distribution, state, reason], "entries": [kind, name, plugin, distribution, state,
    target]}``, as ``--json`` prints it. ``kind`` narrows the entries, never the plugins. The state of an entry is
    ``ok``, or ``contested`` where two installed plugins registered its name."""
    entries = [
        {
            "kind": e.kind,
            "name": e.name,
            "plugin": e.plugin,
            "distribution": e.distribution,
            "state": "contested" if plugins.registry.contested(e.kind, e.name) else plugins.plugins[e.plugin].state,
            "target": e.target if isinstance(e.target, str) else f"{e.target.__module__}:{e.target.__qualname__}",
        }
        for e in plugins.registry
    ]
    entries += [
        {
            "kind": "config_dir",
            "name": str(path),
            "plugin": plugin,
            "distribution": plugins.plugins[plugin].distribution,
            "state": plugins.plugins[plugin].state,
            "target": str(path),
        }
        for path, plugin in plugins.config_dirs
    ]
    return {
        "plugins": [
            {"name": p.name, "distribution": p.distribution, "state": p.state, "reason": p.reason}
            for p in plugins.plugins.values()
        ],
        "entries": [e for e in entries if kind in (None, e["kind"])],
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in (head, *rows))
