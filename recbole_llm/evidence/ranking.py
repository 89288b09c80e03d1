"""One evaluation pass: every positive's rank and the best items, with seen items kept and with them masked.

RecBole's collector builds a ``[B, n_items]`` one-hot a batch and keeps ``[queries, K + 1]`` hits; from ranks and one
list of the best hundred every metric at every K follows, in both seen modes, without a second pass over scores.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.evidence.toplist import Workspace, best, count_finite, count_pairs, has_nan, scan, sort_rows
from recbole_llm.metrics.contracts import Ranking

#: the two meanings of "seen": ``kept`` items compete (RecBole's sequential evaluation), ``masked`` ones do not
MODES = ("kept", "masked")
#: queries ranked at once
_CHUNK_ROWS = 128


def rows_per_chunk(n_columns: int, budget_bytes: int = 16 << 20) -> int:
    """Queries to score at once so that a float32 ``[rows, n_columns]`` stays within ``budget_bytes``; 1 to 128. More
    would only push scores out of the cache between being made and being ranked."""
    return int(min(_CHUNK_ROWS, max(1, budget_bytes // (4 * max(1, n_columns)))))


class Ranker:
    """Collects ranks and lists from score batches.

    A rank is ``#{items scored ≥ the target's}``: behind every equal score. With several positives a query, each one's
    rank counts all items, other positives included (the position in the full ranking, as in RecBole). Masked, the
    query's seen items do not compete. A positive that cannot be recommended (scored −inf, not a candidate, or itself
    seen and masked) has rank ``n_items + 1``. Lists order equal scores by item id; places without a finitely scored
    item hold 0 (T-2). Column 0 ([PAD]) is never recommended.

    Args:
        n_items: real items, ids ``1..n_items``; scores have ``n_items + 1`` columns.
        popularity: int ``[n_items + 1]``, handed through to the metrics; zeros where not given.
        top_size: length of the lists.
    """

    def __init__(self, n_items: int, popularity: np.ndarray | None = None, *, top_size: int = 100):
        if top_size < 1:
            raise UserError(f"top_size is {top_size}; it must be at least 1.")
        self.n_items = n_items
        self.top_size = top_size
        self.popularity = np.zeros(n_items + 1, np.int64) if popularity is None else np.asarray(popularity)
        if self.popularity.shape != (n_items + 1,):
            raise ValueError(f"popularity has shape {self.popularity.shape}, not ({n_items + 1},)")
        self._work = Workspace()
        self._forget()

    def update(
        self,
        scores: Tensor,
        targets: Any,
        *,
        target_offsets: Any = None,
        seen: Any = None,
        candidates: Any = None,
    ) -> None:
        """Ranks one batch.

        Args:
            scores: float ``[b, n_items + 1]``; **overwritten** (make it a copy to keep it).
            targets: int ``[b]``, or ``[P]`` with ``target_offsets``.
            target_offsets: int ``[b + 1]``: the positives of query ``q`` are ``targets[offsets[q]:offsets[q + 1]]``.
            seen: item ids the query's user has seen: int ``[b, L]`` padded with 0, or ``(ids [M], offsets [b + 1])``.
                Repeats are fine. ``None``: nothing seen.
            candidates: int ``[b, C]`` padded with 0: only these compete. ``None``: all items.

        Raises:
            UserError: a score is NaN.
            ValueError: shapes or ids that do not fit.
        """
        scores = scores.detach() if scores.is_floating_point() else scores.float()
        b, v = scores.shape
        if v != self.n_items + 1:
            raise ValueError(f"scores have {v} columns, not n_items + 1 = {self.n_items + 1}")
        device = scores.device
        target, offsets, counts = self._positives(targets, target_offsets, b)
        self._check_ids("targets", target, 1)
        seen_ids = None if seen is None else _IdRows("seen", seen, b, device)
        cand_ids = None if candidates is None else _IdRows("candidates", candidates, b, device)
        for ids in (seen_ids, cand_ids):
            if ids is not None:
                self._check_ids(ids.name, ids.ids, 0)
        row = torch.repeat_interleave(torch.arange(b), counts).to(device)
        on_device = target.to(device)
        scores[:, 0] = -math.inf
        step = rows_per_chunk(v)
        bounds = offsets.tolist()
        for a in range(0, b, step):
            e = min(b, a + step)
            pairs = slice(bounds[a], bounds[e])
            self._chunk(
                scores[a:e],
                row[pairs] - a,
                on_device[pairs],
                None if seen_ids is None else seen_ids.distinct(a, e),
                None if cand_ids is None else cand_ids.distinct(a, e),
            )
        self._counts.append(counts.numpy())
        self._targets.append(target.cpu().numpy())

    def finish(self) -> dict[str, Ranking]:
        """``{"kept": …, "masked": …}`` over all batches since the last call, and a fresh start."""

        def join(parts: list[np.ndarray], empty: tuple[int, ...], dtype: Any) -> np.ndarray:
            return np.concatenate(parts) if parts else np.empty(empty, dtype)

        counts = join(self._counts, (0,), np.int64)
        offsets = np.r_[0, np.cumsum(counts)].astype(np.int64)
        targets = join(self._targets, (0,), np.int64)
        out = {
            mode: Ranking(
                ranks=join(self._ranks[mode], (0,), np.int64),
                offsets=offsets,
                targets=targets,
                top=join(self._top[mode], (0, self.top_size), np.int32),
                n_items=self.n_items,
                n_candidates=join(self._competing[mode], (0,), np.int64),
                popularity=self.popularity,
            )
            for mode in MODES
        }
        self._forget()
        return out

    def _forget(self) -> None:
        self._ranks: dict[str, list[np.ndarray]] = {m: [] for m in MODES}
        self._top: dict[str, list[np.ndarray]] = {m: [] for m in MODES}
        self._competing: dict[str, list[np.ndarray]] = {m: [] for m in MODES}
        self._counts: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def _check_ids(self, name: str, ids: Tensor, low: int) -> None:
        if ids.numel() and (int(ids.min()) < low or int(ids.max()) > self.n_items):
            raise ValueError(f"{name} hold ids outside {low}..{self.n_items}")

    def _positives(self, targets: Any, offsets: Any, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """The positives, their offsets and how many each query has."""
        target = torch.as_tensor(targets, dtype=torch.int64).reshape(-1)
        if offsets is None and len(target) == b:
            return target, torch.arange(b + 1), torch.ones(b, dtype=torch.int64)
        at = torch.arange(b + 1) if offsets is None else torch.as_tensor(offsets, dtype=torch.int64).cpu()
        if len(at) != b + 1 or int(at[0]) != 0 or int(at[-1]) != len(target):
            raise ValueError(f"{len(target)} targets do not fit {b} queries")
        counts = at.diff()
        if bool((counts < 1).any()):
            raise ValueError("every query needs at least one positive")
        return target, at, counts

    def _chunk(self, s: Tensor, row: Tensor, target: Tensor, seen: Tensor | None, cand: Tensor | None) -> None:
        own = s[row, target]
        if cand is None:
            ranks, masked_ranks = self._full(s, row, own, seen)
        else:
            ranks, masked_ranks = self._among(s, row, own, seen, cand)
        lost = own == -math.inf
        if seen is not None:
            gone = lost | (seen[row] == target[:, None]).any(1)
        else:
            gone = lost
        if cand is not None:
            out = ~(cand[row] == target[:, None]).any(1)
            lost, gone = lost | out, gone | out
        for mode, rank, unreachable in (("kept", ranks, lost), ("masked", masked_ranks, gone)):
            rank = rank.masked_fill(unreachable, self.n_items + 1)
            self._ranks[mode].append(rank.cpu().numpy())

    def _full(self, s: Tensor, row: Tensor, own: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ranks among all items; lists and counts are stored."""
        size = min(self.top_size, s.shape[1])
        # the masked list is the kept one without its seen items, if it reaches far enough
        extra = 0 if seen is None else seen.shape[1]
        reach = min(s.shape[1], size + (extra if extra <= 2 * size else 0))
        single = len(row) == len(s)  # every query has a positive, so one each
        found = scan(s, reach, own[:, None] if single else None, self._work)
        if found.fine:
            competing = torch.full((len(s),), self.n_items, device=s.device)
        else:
            refuse_nan(s)
            competing = count_finite(s)
        ranks = found.ahead if found.ahead is not None else count_pairs(s, row, own)
        values, ids = best(s, reach, found)
        self._store("kept", values, ids, competing)
        if seen is None:
            self._store("masked", values, ids, competing)
            return ranks, ranks
        of_seen = s.gather(1, seen)
        # a seen target counts itself here, but it is lost anyway; [PAD] is −inf and never ahead
        ahead = of_seen[row] >= own[:, None]
        s.scatter_(1, seen, -math.inf)
        if extra <= 2 * size:
            values = s.gather(1, ids)
        else:
            values, ids = best(s, size, scan(s, size, work=self._work))
        self._store("masked", values, ids, competing - (of_seen > -math.inf).sum(1))
        return ranks, ranks - ahead.sum(1)

    def _among(self, s: Tensor, row: Tensor, own: Tensor, seen: Tensor | None, cand: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks among the candidates of each query."""
        of_cand = s.gather(1, cand)
        refuse_nan(of_cand)
        ranks = []
        for mode in MODES:
            if mode == "masked" and seen is not None:
                s.scatter_(1, seen, -math.inf)
                of_cand = s.gather(1, cand)
            ranks.append((of_cand[row] >= own[:, None]).sum(1))
            # candidates stand by ascending id, so a stable sort orders ties by id
            order = of_cand.argsort(dim=1, descending=True, stable=True)
            self._store(mode, of_cand.gather(1, order), cand.gather(1, order), (of_cand > -math.inf).sum(1))
        return ranks[0], ranks[1]

    def _store(self, mode: str, values: Tensor, ids: Tensor, competing: Tensor) -> None:
        """Keeps the first ``top_size`` finitely scored ids of each row, closing the gaps; 0 fills up (T-2)."""
        fine = values > -math.inf
        if ids.shape[1] >= self.top_size and bool(fine[:, : self.top_size].all()):  # no gap to close
            self._top[mode].append(ids[:, : self.top_size].int().cpu().numpy())
            self._competing[mode].append(competing.cpu().numpy())
            return
        place = fine.cumsum(1)
        place = torch.where(fine & (place <= self.top_size), place - 1, self.top_size)
        top = torch.zeros(len(ids), self.top_size + 1, dtype=torch.int32, device=ids.device)
        top.scatter_(1, place, ids.int())
        self._top[mode].append(top[:, : self.top_size].cpu().numpy())
        self._competing[mode].append(competing.cpu().numpy())


def refuse_nan(scores: Tensor) -> None:
    """Raises ``UserError`` where a score is NaN."""
    if has_nan(scores):
        raise UserError(
            "The model's scores are not numbers (NaN), so items cannot be ranked.",
            "Training probably diverged: lower learning_rate, set clip_grad_norm, or train in float32.",
        )


class _IdRows:
    """Item ids by query, padded (``[b, L]``, 0 fills) or ragged (``(ids, offsets)``), given out by chunks."""

    def __init__(self, name: str, ids: Any, b: int, device: torch.device):
        self.name = name
        self.offsets: Tensor | None = None
        if isinstance(ids, tuple):
            self.ids = torch.as_tensor(ids[0], dtype=torch.int64).reshape(-1).to(device)
            self.offsets = torch.as_tensor(ids[1], dtype=torch.int64).cpu()
            o = self.offsets
            if len(o) != b + 1 or int(o[0]) != 0 or int(o[-1]) != len(self.ids) or bool((o.diff() < 0).any()):
                raise ValueError(f"{name}: {len(self.ids)} ids and {len(o)} offsets do not fit {b} queries")
        else:
            self.ids = torch.as_tensor(ids, dtype=torch.int64).to(device)
            if self.ids.ndim != 2 or len(self.ids) != b:
                raise ValueError(f"{name} have shape {tuple(self.ids.shape)}, not [{b}, L]")

    def distinct(self, a: int, e: int) -> Tensor:
        """int64 ``[e - a, W]``: the rows ``a:e``, each ascending, 0 in place of repeats, cut to the fullest row.
        0 is [PAD], whose score is −inf, so it neither competes nor counts."""
        ids = sort_rows(self._padded(a, e))
        repeat = ids[:, 1:] == ids[:, :-1]
        if bool(repeat.any()):
            ids[:, 1:][repeat] = 0
            ids = sort_rows(ids)
        width = max(1, int((ids > 0).sum(1).max()))
        return ids[:, max(0, ids.shape[1] - width) :]

    def _padded(self, a: int, e: int) -> Tensor:
        if self.offsets is None:
            rows = self.ids[a:e]
            return rows if rows.shape[1] else rows.new_zeros(e - a, 1)
        start = self.offsets[a : e + 1]
        length = start.diff()
        out = self.ids.new_zeros(e - a, max(1, int(length.max())))
        flat = self.ids[int(start[0]) : int(start[-1])]
        row = torch.repeat_interleave(torch.arange(e - a), length)
        column = torch.arange(len(flat)) - (start[:-1] - start[0])[row]
        out[row.to(out.device), column.to(out.device)] = flat
        return out
