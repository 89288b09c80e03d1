"""What the bridge hands to a model besides its config and dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.text.attribute_tokens import AttributeTokens
from recbole_llm.text.controls import shuffled_rows
from recbole_llm.text.prompts import Prompt
from recbole_llm.text.session_facts import Categories


@dataclass
class Intents:
    """Vectors of what a language model inferred from each session, a row a view, kept where they lie (mapped files).

    A batch says which sessions it holds in the field :data:`INTENT`; two sessions with the same clicks share a number.

    Attributes:
        vectors: float32 ``[T, D]``, one a distinct text, after localisation in the catalogue; row 0 is zeros, for
            a session without that text.
        texts: int64 ``[S, views]``, the row of ``vectors`` of each session and view; row 0 is zeros, for a session
            that nothing is known of.
        views: the names of the views (``long``, ``short``).
        info: facts for the run folder (recipe, prompt, generator, encoder …).
        catalogue, names: float32 ``[V, D]`` and a text an item, what the intents were looked up in; kept with the run.
        slot: which of :class:`Inputs`' attributes, and of the model's, it is.
    """

    vectors: Any
    texts: Any
    views: tuple[str, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Any = None
    names: Any = ()
    slot: ClassVar[str] = "intents"

    @property
    def width(self) -> int:
        """``D``."""
        return int(self.vectors.shape[1])

    def shuffled(self, seed: int) -> Intents:
        """The control: every text has another text's vector, the same wherever it stands, so a session's intent says
        which text it is and nothing of what it means."""
        source = np.r_[0, 1 + shuffled_rows(len(self.vectors) - 1, seed)]
        info = {**self.info, "control": "shuffled", "control_seed": seed}
        return replace(self, texts=source[np.asarray(self.texts)], info=info)

    def rows(self, sessions: Tensor) -> Tensor:
        """``[B, views, D]`` float32, of the sessions numbered ``sessions`` (int64 ``[B]``), on their device."""
        at = np.asarray(self.texts[sessions.cpu().numpy()])
        found = np.asarray(self.vectors[at.ravel()], np.float32)
        return torch.from_numpy(found).view(*at.shape, -1).to(sessions.device)


@dataclass
class Lists:
    """Items that a language model recommended to each session, best first.

    Attributes:
        items: int64 ``[S, K]``, item ids, 0 behind the end of a list; row 0 is for a session that nothing is known of.
        info: facts for the run folder (recipe, prompt, generator, how answers became items …).
        catalogue, names, slot: as in :class:`Intents`. clicks: int64 ``[V]``, training clicks. categories: of models
            that choose among them. Kept with the run, to make lists of new sessions.
    """

    items: Any
    info: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Any = None
    names: Any = ()
    clicks: Any = None
    categories: Categories | None = None
    slot: ClassVar[str] = "lists"

    def rows(self, sessions: Tensor) -> Tensor:
        """``[B, K]`` int64, the lists of the sessions numbered ``sessions`` (int64 ``[B]``), on their device."""
        return torch.from_numpy(np.asarray(self.items[sessions.cpu().numpy()], np.int64)).to(sessions.device)


#: The field of a batch that lists the candidates of each session, int64 ``[B, C]``, padded with 0; there where they are
#: given, and only for a model that says ``reads_candidates``.
CANDIDATES = "candidate_list"
#: The field of a batch that numbers its sessions in :class:`Intents` or :class:`Lists`, int64 ``[B]``.
INTENT = "intent"


@dataclass
class Inputs:
    """What a model gets besides its config and dataset; filled by the bridge, so no model touches a file, network
    or provider.

    Attributes:
        item_matrix: float32 ``[V, D]``, text vectors aligned to item ids; row 0 ([PAD]) is zeros. Already
            reduced, centred or normalised as the config asks. ``None`` where the model asks for no text.
        train_sessions: ``(items int64 [N], offsets int64 [S + 1])``, the raw training sessions in time order,
            for models that build a global graph or an index.
        session_ends: float64 ``[S]``, the time of the last training click of each of those, for models that say
            ``uses_session_times``; ``None`` where the data has no times.
        popularity: float64 ``[V]``, the share of sessions that contain each item, by ``popularity_from``; for models
            that say ``needs_popularity``.
        intents: what a language model made of each session, for models that say ``needs_intents``. lists: the same for
            those that say ``reads_lists`` besides.
        language_model: a pretrained network and its tokenizer, for models that say ``needs_language_model``; every
            parameter is frozen.
        item_texts: the text of ``text_fields`` by item id, '' where an item has none and for [PAD], for models that
            say ``needs_item_texts``; under ``text_control: shuffled`` another item's. ``None`` where a run is opened
            again: what a model makes of them belongs into buffers.
        item_fields: of the same items column → value, in the order of ``text_fields``; what an item has none of is
            left out.
        item_tokens: the same as tokens of the language model, for models that say ``needs_item_tokens``.
        prompt: the texts that a model puts around its vectors, for models that say ``prompt_name``.
        candidates, submodels: of the candidate and composite models; a trained backbone's weights.
        info: facts for the run folder (encoder fingerprint, reducer, missing items …).
    """

    item_matrix: Tensor | None = None
    train_sessions: tuple[Any, Any] | None = None
    session_ends: Any = None
    popularity: Tensor | None = None
    intents: Intents | None = None
    lists: Lists | None = None
    language_model: LanguageModel | None = None
    item_texts: Sequence[str] | None = None
    item_fields: Sequence[Mapping[str, str]] | None = None
    item_tokens: AttributeTokens | None = None
    prompt: Prompt | None = None
    candidates: Any = None
    submodels: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
