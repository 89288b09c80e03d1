"""LaMAR's instruction-tuned recommender: a language model ranks candidates by how likely it finds their titles."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.lm.continuations import Continuations
from recbole_llm.models.contracts import CANDIDATES, Inputs, option
from recbole_llm.models.on_backbone import choice
from recbole_llm.models.session_model import keep_last
from recbole_llm.models.train_free import TrainFreeModel
from recbole_llm.text.candidate_prompt import CandidatePrompt, item_line, item_title, shuffled
from recbole_llm.text.chat_frame import answer_ids, prompt_ids

_log = logging.getLogger(__name__)


class LaMARLLM(TrainFreeModel):
    """LaMAR's recommender (Valizadeh et al., 2025, section 4.2; no code): the prompt lists the session's last five
    items with their fields (a LaMAR signal is one more), then the candidates in random order; the model is asked which
    is next. It was tuned on such questions (``recbole-llm lamar-examples``, ``recbole-llm
    finetune``, ``lm_adapter``), or not at all.

    Where candidates are given (``candidates: 20``), they alone are ranked. With ``candidates: None`` the prompt has no
    list, and every title of the catalogue is scored: 21 random candidates flatter. How the paper gets a ranking out of
    its model is not said; its numbers look like generated answers with failures counted as misses. Ours:

    * ``rank_by: loglik``: the mean log-likelihood a token of each title, its end included. The prompt is read once.
    * ``rank_by: letter``: the log-likelihood of the candidate's letter.

    The two are different rankings and are never compared with each other, nor with generated lists.

    Config:
        lm, lm_adapter (None), rank_by ('loglik'), prompt_clicks (5), candidates_seed (of the order), lm_prompt,
        lm_batch_tokens (1024), text_fields (with or without the signal).
    """

    score_kind: ClassVar[str] = "logits"
    uses_train_sessions: ClassVar[bool] = False
    #: the candidates of a batch come in the field CANDIDATES
    reads_candidates: ClassVar[bool] = True
    lm_head: ClassVar[bool] = True
    lines: Tensor
    titles: Tensor

    @classmethod
    def needs_language_model(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.language_model` must be filled."""
        return True

    @classmethod
    def needs_item_texts(cls, config: Any) -> bool:
        """Whether :attr:`Inputs.item_fields` must be filled."""
        return True

    @classmethod
    def prompt_name(cls, config: Any) -> str:
        """The prompt of :attr:`Inputs.prompt`."""
        return str(option(config, "lm_prompt", "lamar-recommender"))

    def build(self, config: Any, inputs: Inputs) -> None:
        if inputs.language_model is None or inputs.prompt is None:
            raise UserError(
                "LaMARLLM needs a causal language model and its prompt, and none were given.",
                "Set lm (run_recbole fills them), or pass Inputs(language_model=…, prompt=…).",
            )
        self.lm, self.prompt = inputs.language_model, inputs.prompt
        self.letters = choice(config, "rank_by", "loglik", ("loglik", "letter")) == "letter"
        self.clicks = int(option(config, "prompt_clicks", 5))
        self.seed = int(option(config, "candidates_seed", 2020))
        self.tokens = int(option(config, "lm_batch_tokens", 1024))
        #: prompts whose oldest clicks did not fit
        self.shortened = 0
        fields = inputs.item_fields or ()
        self.keep(lines=as_bytes([item_line(f) for f in fields]), titles=as_bytes([item_title(f) for f in fields]))

    @cached_property
    def asked(self) -> CandidatePrompt:
        """The prompt over the catalogue."""
        return CandidatePrompt(self.prompt, as_texts(self.lines), as_texts(self.titles), self.letters)

    @cached_property
    def _named(self) -> list[int]:
        """Items that have a title."""
        return [i for i, title in enumerate(self.asked.titles) if title]

    @cached_property
    def _answers(self) -> dict[str, list[int]]:
        """Answer → its tokens, as far as asked for yet."""
        return {}

    @cached_property
    def _catalogue(self) -> Continuations:
        return self._continuations([self.asked.titles[i] for i in self._named])

    @torch.no_grad()
    def iter_scores(
        self, interaction: Any, prepared: Any = None, max_rows: int = 256
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yields ``(rows, scores [b, V])``; −inf for who is no candidate or has no title.

        Raises:
            UserError: the candidates are too many for letters or for the model's context.
        """
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if item_seq.size(1) > self.clicks:
            item_seq, lengths = keep_last(item_seq, lengths, self.clicks)
        listed = interaction[CANDIDATES].cpu().numpy() if CANDIDATES in interaction else None
        seqs, lengths = item_seq.cpu().numpy(), lengths.cpu().numpy()
        for start in range(0, len(seqs), max_rows):
            rows = slice(start, min(start + max_rows, len(seqs)))
            scores = torch.full((rows.stop - rows.start, self.n_items), -torch.inf)
            for at in range(rows.start, rows.stop):
                history = seqs[at, : max(1, lengths[at])].tolist()
                items, values = self.score(history, None if listed is None else listed[at])
                scores[at - rows.start, items] = torch.from_numpy(values)
            yield rows, scores.to(item_seq.device)

    def score(self, history: Sequence[int], candidates: np.ndarray | None) -> tuple[list[int], np.ndarray]:
        """``(items, float32 scores)`` of one session of item ids, oldest first."""
        pad = self.lm.tokenizer.pad_token_id
        if candidates is None:
            if self.letters:
                raise UserError("rank_by: letter needs candidates.", "Set --candidates=20, or --rank_by=loglik.")
            found, items, order = self._catalogue, self._named, None
        else:
            order = [i for i in shuffled(candidates, history, self.seed) if self.asked.titles[i]]
            items, found = order, self._continuations([self.asked.answer(i, order) for i in order])
        room = int(found.lengths.max(initial=1))
        summed = found.logliks(self.lm.network, self._prompt(list(history), order, room), pad)
        return items, summed if self.letters else summed / found.lengths.astype(np.float32)

    def _continuations(self, answers: Sequence[str]) -> Continuations:
        for answer in answers:
            if answer not in self._answers:
                self._answers[answer] = answer_ids(self.lm.tokenizer, answer)
        return Continuations([self._answers[a] for a in answers], self.tokens)

    def _prompt(self, history: list[int], candidates: Sequence[int] | None, room: int) -> list[int]:
        """Token ids of the prompt, without as many of the oldest clicks as leave no room for an answer."""
        context = self.lm.context
        for skip in range(len(history)):
            ids = prompt_ids(self.lm.tokenizer, self.asked.messages(history[skip:], candidates))
            if context is None or len(ids) + room <= context:
                if skip:
                    if not self.shortened:
                        _log.warning("A prompt is longer than the model reads (%d): oldest clicks go.", context)
                    self.shortened += 1
                return ids
        raise UserError(
            f"A prompt of {len(ids)} tokens and an answer of {room} are more than the {context} the model reads.",
            "Use fewer candidates, fewer text_fields, or another lm.",
        )


def as_bytes(texts: Sequence[str]) -> Tensor:
    """uint8: texts in UTF-8, each ended by a zero byte; a buffer that a checkpoint holds."""
    return torch.frombuffer(
        bytearray(b"".join(t.replace("\0", " ").encode() + b"\0" for t in texts) or b"\0"), dtype=torch.uint8
    )


def as_texts(kept: Tensor) -> list[str]:
    """The inverse of :func:`as_bytes`."""
    return [part.decode() for part in kept.cpu().numpy().tobytes().split(b"\0")[:-1]]
