"""Items as tokens: each attribute as its name, then its value (RecFormer: Li et al., "Text Is All You Need: Learning
Language Representations for Sequential Recommendation", KDD 2023, section 2.1, and its tokenizer)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_llm.text.item_text import role_of

#: What a token is: the first token of a sequence, of an attribute's name, of its value, or padding.
START, KEY, VALUE, PAD = range(4)


@dataclass
class AttributeTokens:
    """The tokens of a catalogue, item after item.

    Attributes:
        ids: int32 ``[N]``, token ids. types: uint8 ``[N]``, :data:`KEY` or :data:`VALUE`.
        offsets: int64 ``[V + 1]``, where each item's tokens start; an item without text has none.
        facts: for the run folder: mean and most tokens an item, items without any, attributes that were cut at
            ``longest``, attributes left out beyond ``most``.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def attribute_tokens(
    items: Sequence[Mapping[str, str]],
    tokenize: Callable[[list[str]], Sequence[Sequence[int]]],
    most: int,
    longest: int,
    names: Mapping[str, str] | None = None,
) -> AttributeTokens:
    """The tokens of ``items``, by item id.

    Args:
        items: of each item column → value, in order; empty for [PAD] and for items without text.
        tokenize: texts → token ids, no special tokens; at least the first ``longest + 1`` of each text.
        most: attributes an item, at most; the first ones count.
        longest: tokens an attribute, name and value together; later ones are cut.
        names: column → what the attribute is called, where it is not the column's role or name.
    """
    chosen = [list(item.items())[:most] for item in items]
    columns = list(dict.fromkeys(column for item in chosen for column, _ in item))
    called = [(names or {}).get(c) or role_of(c).replace("_", " ") for c in columns]
    key_of = dict(zip(columns, tokenize(called))) if columns else {}
    values = list(dict.fromkeys(value for item in chosen for _, value in item))
    value_of = dict(zip(values, tokenize(values))) if values else {}
    ids: list[int] = []
    types: list[int] = []
    offsets = np.zeros(len(items) + 1, np.int64)
    cut = 0
    for row, item in enumerate(chosen):
        for column, value in item:
            key, said = key_of[column], value_of[value]
            cut += len(key) + len(said) > longest
            ids += [*key, *said][:longest]
            types += ([KEY] * len(key) + [VALUE] * len(said))[:longest]
        offsets[row + 1] = len(ids)
    lengths = np.diff(offsets)[1:]  # without [PAD]
    facts = {
        "mean": round(float(lengths[lengths > 0].mean()), 2) if (lengths > 0).any() else 0.0,
        "longest": int(lengths.max(initial=0)),
        "items_without": int((lengths == 0).sum()),
        "attributes_cut": cut,
        "attributes_left_out": sum(max(0, len(item) - most) for item in items),
    }
    return AttributeTokens(np.asarray(ids, np.int32), np.asarray(types, np.uint8), offsets, facts)


def tokens_that_fit(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, lengths: np.ndarray, most_tokens: int
) -> dict[str, float]:
    """What of these sessions a text model reads, newest item first behind a first token.

    Args:
        offsets: int64 ``[V + 1]``, of :class:`AttributeTokens`.
        items: int64 ``[N]``, all clicks, session after session.
        ends, lengths: int64 ``[R]``; row r reads ``items[ends[r] - lengths[r] : ends[r]]``.
        most_tokens: tokens a session, the first one counted.

    Returns: means over the rows: ``tokens`` read, ``items`` read whole or in part, ``items_whole``; and ``cut``, the
        share of rows that lose tokens.
    """
    before = np.concatenate([[0], np.cumsum(np.diff(offsets)[items])])  # tokens in front of each click
    begin, room = ends - lengths, most_tokens - 1
    total = before[ends] - before[begin]
    least = before[ends] - room  # a click is read whole from here on
    whole = np.maximum(np.searchsorted(before, least, "left"), begin)
    started = np.minimum(whole, np.maximum(np.searchsorted(before, least, "right") - 1, begin))
    return {
        "tokens": round(float(1 + np.minimum(total, room).mean()), 2),
        "items": round(float((ends - started).mean()), 3),
        "items_whole": round(float((ends - whole).mean()), 3),
        "cut": round(float((total > room).mean()), 4),
    }
