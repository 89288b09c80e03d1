"""What a split is: the prediction rows of train, valid and test, and what training may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recbole_llm.datasets.sessions import Rows, Sessions
from recbole_llm.errors import UserError, unknown


@dataclass(frozen=True)
class Split:
    """Prediction rows by part.

    Attributes:
        rule: the name in ``split_by``.
        sessions: the sessions the rows point into (where a rule drops items, without them).
        train, valid, test: rows; ``valid`` and ``test`` may be empty where the rule says so.
        train_mask: bool ``[N]`` over ``sessions.items``: the clicks training may see. Graphs, neighbours,
            popularity and anything fitted use these and no others; it holds no valid or test target.
        raw: the sessions before any item was dropped, same users (for ``popularity_from: all`` and for what a user
            has seen).
        report: counts for the manifest (JSON-able).
        kept: bool ``[N']`` over the clicks of the sessions the rule was given: those still in ``sessions``. ``None``
            where none was dropped.
        marks: name → int64 ``[N]`` over ``sessions.items``, further facts of the rows whose targets stand there, which
            batches carry as fields. Filled after the split is made.
    """

    rule: str
    sessions: Sessions
    train: Rows
    valid: Rows
    test: Rows
    train_mask: np.ndarray
    raw: Sessions
    report: Mapping[str, Any] = field(default_factory=dict)
    kept: np.ndarray | None = None
    marks: dict[str, np.ndarray] = field(default_factory=dict)

    def parts(self) -> dict[str, Rows]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def latest(self, n: int) -> Split:
        """The same split with the ``n`` validation and the ``n`` test instances whose targets were clicked last;
        without times the last rows. Their order stays."""
        clock = self.sessions.times if self.sessions.times is not None else self.sessions.order

        def of(rows: Rows) -> Rows:
            when = np.arange(len(rows)) if clock is None else clock[rows.target]
            return rows[np.sort(np.argsort(when, kind="stable")[-n:])]

        valid, test = of(self.valid), of(self.test)
        report = {**self.report, "eval_sample": n, "valid_rows": len(valid), "test_rows": len(test)}
        return replace(self, valid=valid, test=test, report=report)

    def train_sessions(self) -> tuple[np.ndarray, np.ndarray]:
        """``(items int64 [M], offsets int64 [S' + 1])``: the raw training sessions in session order, clicks in time
        order; one-item sessions stay, sessions without a training click are left out."""
        counts = self._clicks()
        offsets = np.r_[0, np.cumsum(counts[counts > 0])].astype(np.int64)
        return self.sessions.items[self.train_mask], offsets

    def train_session_index(self) -> np.ndarray:
        """int64 ``[S']``: for each of :meth:`train_sessions`, its index in ``sessions`` (for users and times)."""
        return np.flatnonzero(self._clicks())

    def train_session_ends(self) -> np.ndarray | None:
        """float64 ``[S']``, the latest true time of each of :meth:`train_sessions`' clicks; ``None`` without times."""
        if self.sessions.times is None and self.sessions.order is None:
            return None
        return self.sessions.keep(self.train_mask).ends()[self.train_session_index()]

    def train_counts(self, n_items: int, popularity_from: str = "train") -> np.ndarray:
        """int64 ``[n_items + 1]``, raw clicks an item (T-6: not RecBole's ``item_counter``, which counts the targets
        of augmented rows only and so misses every first click).

        Args:
            n_items: real items; ids are ``1..n_items``.
            popularity_from: ``train``, or ``all`` = train, valid and test as Boz et al. count (uses the future).

        Raises:
            UserError: another ``popularity_from``.
        """
        if popularity_from == "train":
            seen = self.sessions.items[self.train_mask]
        elif popularity_from == "all":
            seen = self.raw.items
        else:
            raise unknown("popularity_from", str(popularity_from), ["train", "all"])
        if len(seen) and int(seen.max()) > n_items:
            raise ValueError(f"item id {int(seen.max())} is larger than n_items = {n_items}")
        return np.bincount(seen, minlength=n_items + 1)

    def session_shares(self, n_items: int, popularity_from: str = "train") -> np.ndarray:
        """float64 ``[n_items + 1]``: the share of sessions that contain an item, which Boz et al. call its popularity;
        of the training sessions, or with ``all`` of all (uses the future).

        Raises:
            UserError: another ``popularity_from``.
        """
        if popularity_from == "train":
            return session_shares(
                self.sessions.session_of()[self.train_mask], self.sessions.items[self.train_mask], n_items
            )
        if popularity_from == "all":
            return session_shares(self.raw.session_of(), self.raw.items, n_items)
        raise unknown("popularity_from", str(popularity_from), ["train", "all"])

    def _clicks(self) -> np.ndarray:
        """Training clicks of each session, int64 ``[S]``."""
        before = np.r_[0, np.cumsum(self.train_mask)].astype(np.int64)
        return np.diff(before[self.sessions.offsets])


def session_shares(session_of: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """float64 ``[n_items + 1]``: the share of the sessions (those with a click) that contain each item.

    Args:
        session_of, items: int ``[N]``, the session and the item of each click.
    """
    pairs = np.unique(session_of.astype(np.int64) * (n_items + 1) + items)
    count = np.bincount(pairs % (n_items + 1), minlength=n_items + 1)
    return count / max(1, len(np.unique(session_of)))


def finish(
    rule: str,
    sessions: Sessions,
    train: Rows,
    valid: Rows,
    test: Rows,
    train_mask: np.ndarray,
    raw: Sessions,
    kept: np.ndarray | None = None,
    **report: Any,
) -> Split:
    """The split with the counts every rule reports."""
    items = sessions.items
    trained = np.zeros(int(items.max(initial=0)) + 1, bool)
    trained[items[train_mask]] = True
    counts: dict[str, Any] = {
        "split_by": rule,
        "sessions": len(sessions),
        "interactions": len(raw.items),
        "train_rows": len(train),
        "valid_rows": len(valid),
        "test_rows": len(test),
        "train_clicks": int(train_mask.sum()),
        "train_items": int(trained.sum()),
        "valid_targets_unseen_in_train": int((~trained[items[valid.target]]).sum()),
        "test_targets_unseen_in_train": int((~trained[items[test.target]]).sum()),
    }
    return Split(rule, sessions, train, valid, test, train_mask, raw, {**counts, **report}, kept)


def check_ratios(ratios: Any) -> tuple[float, float, float]:
    """Train, valid and test shares, summing to 1.

    Raises:
        UserError: they are not three such numbers.
    """
    try:
        a, b, c = (float(r) for r in ratios)
    except (TypeError, ValueError):
        a = b = c = -1.0
    if min(a, b, c) < 0 or a <= 0 or abs(a + b + c - 1) > 1e-6:
        raise UserError(
            f"split_ratios is {ratios!r}; it must be three shares of train, valid and test that sum to 1.",
            "For example: split_ratios: [0.8, 0.1, 0.1]",
        )
    return a, b, c
