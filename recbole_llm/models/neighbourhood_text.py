"""The SKNN family on text: sessions are similar where their pooled text vectors are."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.layers.neighbour_search import Pool, first_shared, nearest, products, reach
from recbole_llm.models.layers.session_index import Prompts, starts_of
from recbole_llm.models.neighbourhood import ALL, SKNN
from recbole_llm.models.similarity import item_vectors
from recbole_llm.text.pipeline import l2_normalized
from recbole_llm.text.pooling import SKNN_DECAYS, STRATEGIES, known, pool_sessions


class SKNNEmb(SKNN):
    """SKNNEmb (Boz et al., section 4): :class:`SKNN` whose similarity is that of two text vectors.

    A prompt's vector pools the items that are left of it, each once; a training session's pools its raw clicks, with
    repeats. Similarity is their cosine (0 with a zero vector) or dot product; it may be negative, such a neighbour
    still counts. The authors' code pools training sessions with the prompt's decay whenever a training decay is set
    (T-25); here each side has its own.

    Config:
        those of SKNN, ``decay`` being the prompt's, and:
        train_decay ('none'): of training sessions.
        prompt_pooling, train_pooling ('mean'): or 'last', which no decay changes.
        neighbour_pool ('shared'): sessions that share an item, as the authors' code has it; 'all': any session, as the
            paper reads. ``sample_size`` then leaves the same m sessions for every prompt, unless it is None.
    """

    score_kind: ClassVar[str] = "similarity"
    item_vectors: Tensor

    @classmethod
    def needs_item_matrix(cls, config: Any) -> bool:
        return True

    def build(self, config: Any, inputs: Inputs) -> None:
        """Raises: UserError: there are no text vectors, or unfit ones; or what SKNN raises."""
        super().build(config, inputs)
        self.train_decay = known(option(config, "train_decay", "none"), SKNN_DECAYS, "train_decay")
        self.prompt_pooling = known(option(config, "prompt_pooling", "mean"), STRATEGIES, "prompt_pooling")
        self.train_pooling = known(option(config, "train_pooling", "mean"), STRATEGIES, "train_pooling")
        self.neighbour_pool = known(option(config, "neighbour_pool", "shared"), ("shared", "all"), "neighbour_pool")
        self.register_buffer("item_vectors", item_vectors(self, inputs), persistent=False)
        self._session_vectors: np.ndarray | None = None

    def read_sessions(self, items: np.ndarray, offsets: np.ndarray) -> None:
        super().read_sessions(items, offsets)
        self._session_vectors = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._session_vectors = None

    def prepare_scoring(self) -> None:
        """Builds the index and the session vectors, once."""
        self.session_vectors()

    def session_vectors(self) -> np.ndarray:
        """float32 ``[S, D]``, training sessions in pool order; unit vectors where similarity is the cosine."""
        if self._session_vectors is None:
            index = self.index()
            clicks, offsets = index.clicks, index.click_offsets
            self._session_vectors = self._pooled(clicks, offsets, self.train_pooling, self.train_decay)
        return self._session_vectors

    def prompt_vectors(self, prompts: Prompts) -> np.ndarray:
        """float32 ``[b, D]``, likewise; zero for an empty prompt."""
        return self._pooled(prompts.items, prompts.offsets, self.prompt_pooling, self.decay)

    def _pooled(self, items: np.ndarray, offsets: np.ndarray, strategy: str, decay: str) -> np.ndarray:
        vectors = self.item_vectors.cpu().numpy()
        pooled = pool_sessions(vectors, items, offsets, strategy, decay, SKNN_DECAYS)
        return l2_normalized(pooled) if self.similarity == "cosine" else pooled

    def neighbours(self, prompts: Prompts) -> tuple[Pool, np.ndarray]:
        if self.neighbour_pool == "shared":
            return super().neighbours(prompts)
        index, n = self.index(), len(prompts)
        looked_at = min(self.sample_size, len(index))
        near = (self.prompt_vectors(prompts) @ self.session_vectors()[:looked_at].T).astype(np.float64).ravel()
        offsets = np.arange(n + 1) * looked_at
        keep, _ = nearest(near, offsets, self.n_neighbors)
        keep = keep[prompts.lengths[keep // looked_at] > 0]
        row, rank = np.divmod(keep, looked_at)
        last = np.zeros(len(rank), np.int32)
        if self.position_weight:
            shared = first_shared(index, prompts, ALL)
            keys = shared.rows * len(index) + shared.ranks  # ascending
            at = np.minimum(np.searchsorted(keys, row * len(index) + rank), max(len(keys) - 1, 0))
            found = keys[at] == row * len(index) + rank if len(keys) else np.zeros(len(rank), bool)
            last = np.where(found, shared.last[at] if len(keys) else 0, 0)
        of_each = starts_of(np.bincount(row, minlength=n))
        return Pool(rank.astype(np.int32), of_each, np.zeros(len(rank)), last), near[keep]

    def similarities(self, prompts: Prompts, pool: Pool) -> np.ndarray:
        return products(self.prompt_vectors(prompts), self.session_vectors(), pool)

    def _pairs(self, prompts: Prompts) -> np.ndarray:
        if self.neighbour_pool == "shared":
            return super()._pairs(prompts)
        pairs = np.full(len(prompts), min(self.sample_size, len(self.index())))
        return pairs + reach(self.index(), prompts, ALL) if self.position_weight else pairs
