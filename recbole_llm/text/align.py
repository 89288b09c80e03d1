"""Vectors to item ids, by the item's original token and by nothing else (T-1).

RecBole renumbers items whenever a dataset is loaded, so a row number or an id says nothing about the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import UserError

POLICIES = ("zero", "error")
#: How many missing items a message or an info names.
NAMED = 10


@dataclass
class Aligned:
    """Vectors in the order of the dataset's item ids.

    Attributes:
        values: float32 ``[V, D]``; row ``i`` is item ``i``'s, row 0 ([PAD]) and the rows of missing items are zero.
        present: bool ``[V]``, which rows hold a vector.
        missing: the tokens without one, in the order of their ids.
    """

    values: np.ndarray
    present: np.ndarray
    missing: list[str]


def align(
    tokens: Sequence[str],
    row_of: Mapping[str, int],
    vectors: np.ndarray,
    missing: str = "zero",
    what: str = "text",
) -> Aligned:
    """Puts ``vectors[row_of[tokens[i]]]`` into row ``i``.

    Args:
        tokens: the original token of each item id; ``tokens[0]`` is ``[PAD]`` and gets zeros whatever it is called.
        row_of: token → row of ``vectors``.
        vectors: float32 ``[n, D]``.
        missing: what becomes of items that are not in ``row_of``: ``zero`` or ``error``.
        what: the thing an item lacks, for messages.

    Raises:
        UserError: no item at all has a vector (they are another dataset's); or some have none and ``missing`` is
            ``error``.
    """
    if missing not in POLICIES:
        raise UserError(f"text_missing cannot be {missing!r}.", f"Choose {' or '.join(POLICIES)}.")
    rows = np.fromiter((row_of.get(t, -1) for t in tokens), dtype=np.int64, count=len(tokens))
    rows[:1] = -1
    present = rows >= 0
    lacking = [tokens[i] for i in np.flatnonzero(~present).tolist() if i]
    if lacking and not present.any():
        raise UserError(
            f"None of the dataset's {len(lacking)} items has a {what} (such as {named(lacking, 3)}).",
            "Are these of another dataset, or are its item ids written differently?",
        )
    if lacking and missing == "error":
        raise UserError(
            f"{len(lacking)} of {len(tokens) - 1} items have no {what}: {named(lacking)}.",
            "Give them one, or set text_missing=zero to give them the zero vector.",
        )
    values = np.zeros((len(tokens), vectors.shape[1]), dtype=np.float32)
    values[present] = vectors[rows[present]]
    return Aligned(values, present, lacking)


def named(tokens: Sequence[str], most: int = NAMED) -> str:
    """The first tokens as words for a message: ``a, b, … (7 in all)``."""
    return ", ".join(tokens[:most]) + (f", … ({len(tokens)} in all)" if len(tokens) > most else "")


def rows_to_fit(fit: str, present: np.ndarray, trained: np.ndarray | None) -> np.ndarray | None:
    """bool ``[n]``: the items, of those with a vector, that ``text_fit`` (``fit``) names; ``None`` is all of them.

    Args:
        present: bool ``[V]``, items that have a vector.
        trained: bool ``[V]``, items with a training click, where that is known.

    Raises:
        UserError: the items of training are asked for, and there are none.
    """
    if fit != "train":
        return None
    if trained is None or not trained[present].any():
        raise UserError(
            "text_fit is train, but no item with a text is known to have a training click.",
            "Set split_by (leave_one_out, for example), or text_fit: all.",
        )
    return trained[present]  # type: ignore[no-any-return]
