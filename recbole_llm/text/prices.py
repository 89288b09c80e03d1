"""The user's own dated price table (YAML: ``date``, ``currency``, ``models``), prices of a million tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, nearest
from recbole_llm.values import read_yaml


def price_entry(path: str | Path, model: str, sides: tuple[str, ...], example: str) -> tuple[list[float], str, str]:
    """``(prices of a token, currency, date)`` of a model.

    Args:
        sides: the keys of an entry that prices sides apart (``in``, ``out``), one price each; empty where an entry is
            one number.
        example: an entry as it is written, for messages.

    Raises:
        UserError: it is not such a table, or does not price ``model``.
    """
    table = read_yaml(Path(path))
    models, date = table.get("models"), table.get("date")
    form = f"Write: date: 2026-01-31, currency: USD, models: {{{example}}}  (price of a million tokens)"
    if not isinstance(models, dict) or not date:
        raise UserError(f"{path} is not a price table: it needs the keys 'date' and 'models'.", form)
    if model not in models:
        close = nearest(model, [str(m) for m in models])
        raise UserError(f"{path} has no price for '{model}'.", f"It has {', '.join(close)}." if close else form)
    entry: Any = models[model]
    found: list[Any] = (
        [entry.get(s) for s in sides] if sides and isinstance(entry, dict) else [None if sides else entry]
    )
    if not all(isinstance(p, (int, float)) and not isinstance(p, bool) and p >= 0 for p in found):
        what = f" with {' and '.join(sides)}" if sides else ""
        raise UserError(f"{path}: the price of '{model}' is {entry!r}, not a number{what}.", form)
    return [p / 1e6 for p in found], str(table.get("currency", "USD")), str(date)
