"""Recommending what similar training sessions hold: the SKNN family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.neighbour_search import Pool, add_up, first_shared, nearest, reach
from recbole_llm.models.layers.session_index import Prompts, SessionIndex, read_prompts, starts_of
from recbole_llm.models.train_free import TrainFreeModel
from recbole_llm.text.pooling import SKNN_DECAYS, decay_weights, known

#: Pairs of a prompt and a session that are held at once.
_PAIRS = 1 << 19
#: A number that stands for all.
ALL = np.iinfo(np.int32).max


class SKNN(TrainFreeModel):
    """Session-based nearest neighbours (Jannach and Ludewig, RecSys 2017), as Boz et al., "Improving Sequential
    Recommendations with LLMs" (TORS 2025), use them.

    With p the prompt's items and S a training session, both sets::

        similarity(p, S) = |p ∩ S| / sqrt(|p| |S|)   or   |p ∩ S|
        score(i) = sum over the k most similar of m sessions that share an item, of similarity(p, S) [i in S]

    The prompt is cut to its last ``last_n`` clicks, then repeats are dropped (the first stays), then items no training
    session holds (T-24); what is said of places and of the last item is meant of what is left. Session rows are
    binary: the authors' code counts repeats, against its own documentation. Items that no neighbour holds, and those of
    the prompt, are not scored (−inf); a prompt without known items has an empty list.

    The m sessions are the most recent, by the time of their last training click; of sessions that end together, and
    where there are no times, the later in the data is the more recent. Or they are random: the first m in one random
    order of all sessions, drawn once with ``seed``, so that a prompt's are a uniform sample and scores do not depend on
    batches. Of sessions equally similar at the k-th place, the first in that order stay. Everything is computed on the
    CPU; a GPU gets the scores.

    Config:
        n_neighbors (140): k; ``None`` is all.
        sample_size (1020): m, at least k; ``None`` is all.
        sampling ('recent'): or 'random'.
        similarity ('cosine'): or 'dot'.
        decay ('none'): weights of the prompt's items in the similarity and in |p|, by place from the end:
            linear, log, harmonic, quadratic.
        position_weight (False): each neighbour counts by the place of its last shared item, over |p| (S-SKNN).
        successors_only (False): only items that followed the prompt's last one in some training session (SF-SKNN).
        idf (False): scores times 1 + ln(sessions / sessions with the item).
        last_n (None): clicks of a session that count, from its end.
        keep_prompt (False): whether the prompt's own items are scored.
    """

    score_kind: ClassVar[str] = "mass"
    uses_session_times: ClassVar[bool] = True
    session_clicks: Tensor
    session_offsets: Tensor

    def build(self, config: Any, inputs: Inputs) -> None:
        """Raises: UserError: more neighbours than sessions are looked at, or an unknown choice."""
        self.n_neighbors = _number(option(config, "n_neighbors", None))
        self.sample_size = _number(option(config, "sample_size", None))
        if self.sample_size < self.n_neighbors and option(config, "n_neighbors", None) is not None:
            raise UserError(
                f"n_neighbors is {self.n_neighbors}, but only sample_size: {self.sample_size} sessions are looked at.",
                "Set sample_size to as many or more, or to None for all.",
            )
        self.sampling = known(option(config, "sampling", "recent"), ("recent", "random"), "sampling")
        self.similarity = known(option(config, "similarity", "cosine"), ("cosine", "dot"), "similarity")
        self.decay = known(option(config, "decay", "none"), SKNN_DECAYS, "decay")
        self.position_weight = bool(option(config, "position_weight", False))
        self.successors_only = bool(option(config, "successors_only", False))
        self.idf = bool(option(config, "idf", False))
        self.last_n = option(config, "last_n", None)
        self.keep_prompt = bool(option(config, "keep_prompt", False))
        self.seed = int(option(config, "seed", 0))
        self._ends = inputs.session_ends
        self._index: SessionIndex | None = None
        self._scores = torch.empty(0, self.n_items)
        self.keep(session_clicks=torch.zeros(0, dtype=torch.int32), session_offsets=torch.zeros(1, dtype=torch.int64))

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        order = self._pool_order(len(offsets) - 1)
        lengths = np.diff(offsets)[order]
        moved = starts_of(lengths)
        at = np.repeat(offsets[:-1][order] - moved[:-1], lengths) + np.arange(moved[-1])
        self.keep(session_clicks=torch.from_numpy(items[at].astype(np.int32)), session_offsets=torch.from_numpy(moved))
        self._ends = self._index = None

    def _pool_order(self, n: int) -> np.ndarray:
        if self.sampling == "random":
            return np.random.default_rng(self.seed).permutation(n)
        later = np.arange(n)
        return np.lexsort((later, later if self._ends is None else self._ends))[::-1]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._index = None

    def index(self) -> SessionIndex:
        """The training sessions, in pool order."""
        if self._index is None:
            clicks, offsets = self.session_clicks.cpu().numpy(), self.session_offsets.cpu().numpy()
            self._index = SessionIndex.build(clicks, offsets, self.n_items)
        return self._index

    def prepare_scoring(self) -> None:
        """Builds the index, once."""
        self.index()

    def read_prompts(self, item_seq: Tensor, lengths: Tensor) -> Prompts:
        """What is left of sessions (int64 ``[b, L]``, ``[b]``)."""

        def weigh(place: np.ndarray, length: np.ndarray) -> np.ndarray:
            return decay_weights(self.decay, place, length, SKNN_DECAYS)

        return read_prompts(item_seq.cpu().numpy(), lengths.cpu().numpy(), self.index().counts, weigh, self.last_n)

    @torch.no_grad()
    def score_sessions(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """float32 ``[b, V]``; −inf where an item is not scored. The next call overwrites them."""
        prompts = self.read_prompts(item_seq, lengths)
        if len(self._scores) < len(prompts):  # fresh pages would cost as much as the search's longest step
            self._scores = torch.empty(len(prompts), self.n_items)
        scores = self._scores[: len(prompts)]
        for begin, end in self._blocks(prompts):
            self.score_prompts(prompts.part(begin, end), scores[begin:end].numpy())
        return scores.to(item_seq.device)

    def score_prompts(self, prompts: Prompts, out: np.ndarray) -> None:
        """Overwrites ``out`` (floats ``[b, V]``) with the scores; sums are float64 whatever it is."""
        index = self.index()
        out.fill(-np.inf)
        pool, similarities = self.neighbours(prompts)
        weights = similarities
        if self.position_weight:
            weights = weights * (pool.last / prompts.lengths[pool.rows])
        add_up(index, pool, weights, index.idf if self.idf else np.ones(self.n_items), out)
        if self.successors_only:
            full = np.flatnonzero(prompts.lengths)
            allowed = index.successors[prompts.items[prompts.offsets[1:][full] - 1]]
            row, item = full[np.repeat(np.arange(len(full)), np.diff(allowed.indptr))], allowed.indices
            chosen = out[row, item]
            out.fill(-np.inf)
            out[row, item] = chosen
        if not self.keep_prompt:
            out[prompts.rows, prompts.items] = -np.inf

    def neighbours(self, prompts: Prompts) -> tuple[Pool, np.ndarray]:
        """The neighbours of each prompt, in pool order, and their similarities (float64 ``[T]``)."""
        pool = first_shared(self.index(), prompts, self.sample_size)
        similarities = self.similarities(prompts, pool)
        near, offsets = nearest(similarities, pool.offsets, self.n_neighbors)
        return pool.only(near, offsets), similarities[near]

    def similarities(self, prompts: Prompts, pool: Pool) -> np.ndarray:
        """float64 ``[T]``, of each prompt and each session beside it."""
        if self.similarity == "dot":
            return pool.dots
        return pool.dots / (np.repeat(prompts.norms, np.diff(pool.offsets)) * self.index().roots[pool.ranks])

    def _blocks(self, prompts: Prompts) -> Iterator[tuple[int, int]]:
        """Spans of prompts that together have at most :data:`_PAIRS` pairs, or are one."""
        pairs = np.cumsum(self._pairs(prompts))
        begin, before = 0, 0
        while begin < len(prompts):
            end = max(begin + 1, int(np.searchsorted(pairs, before + _PAIRS, "right")))
            yield begin, end
            begin, before = end, int(pairs[end - 1])

    def _pairs(self, prompts: Prompts) -> np.ndarray:
        return reach(self.index(), prompts, self.sample_size)


class VSKNN(SKNN):
    """V-SKNN (Ludewig and Jannach, 2018) as Boz et al. have it: :class:`SKNN` whose prompt items count less the older
    they are (``decay: harmonic``; the other decays of SKNN are there too). session-rec's model of that name is another:
    it weighs by ``place / length``, decays neighbours as well, and scores the prompt's items."""


class SSKNN(SKNN):
    """S-SKNN: :class:`SKNN` whose neighbours count by the place, in the prompt, of the last item they share."""


class SFSKNN(SKNN):
    """SF-SKNN: :class:`SKNN` that scores only what came right after the prompt's last item in some training session."""


def _number(value: int | None) -> int:
    return ALL if value is None else int(value)
