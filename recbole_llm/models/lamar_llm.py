"""LaMAR's instruction-tuned recommender: a language model ranks candidates by how likely it finds their titles."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import UserError
from recbole_llm.lm.continuations import Continuations
from recbole_llm.lm.decoding import greedy_answers
from recbole_llm.models.contracts import option
from recbole_llm.models.inputs import CANDIDATES, Inputs
from recbole_llm.models.on_backbone import choice
from recbole_llm.models.session_model import keep_last
from recbole_llm.models.train_free import TrainFreeModel
from recbole_llm.text.candidate_prompt import BLOCKS, CandidatePrompt, item_line, item_titles, shuffled
from recbole_llm.text.chat_frame import answer_ids, prompt_ids
from recbole_llm.text.listed import listed_titles
from recbole_llm.text.reorder import reorder

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
    * ``rank_by: generate``: the model writes ``answer_items`` titles, greedily; each is looked up among the candidates,
      by its letters if it is none of them (:func:`~recbole_llm.text.reorder.reorder`). Of n candidates the one named at
      rank r (from 0) scores n − r; who is not named is not recommended, so a failure is a miss. This imitates the
      paper. With ``answer_items: 1`` the prompt is that of ``loglik``, and Recall@K is the same for every K.

    The three are different rankings and are never compared with each other.

    Config:
        lm, lm_adapter (None), rank_by ('loglik'), answer_items (10), max_new_tokens (384), prompt_clicks (5),
        candidates_seed (of the order), lm_prompt, lm_batch_tokens (1024), text_fields (with or without the signal).
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
        self.rank_by = choice(config, "rank_by", "loglik", tuple(BLOCKS))
        self.wanted = int(option(config, "answer_items", 10))
        self.longest = int(option(config, "max_new_tokens", 384))
        self.clicks = int(option(config, "prompt_clicks", 5))
        self.seed = int(option(config, "candidates_seed", 2020))
        self.tokens = int(option(config, "lm_batch_tokens", 1024))
        #: prompts whose oldest clicks did not fit
        self.shortened = 0
        #: what became of written answers, in all that were asked
        self.written = Counter[str]()
        fields = inputs.item_fields or ()
        self.keep(lines=as_bytes([item_line(f) for f in fields]), titles=as_bytes(item_titles(fields)))

    @cached_property
    def asked(self) -> CandidatePrompt:
        """The prompt over the catalogue."""
        return CandidatePrompt(self.prompt, as_texts(self.lines), as_texts(self.titles), self.rank_by, self.wanted)

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
            histories = [seqs[at, : max(1, lengths[at])].tolist() for at in range(rows.start, rows.stop)]
            candidates = [None] * len(histories) if listed is None else listed[rows]
            orders = [self._order(history, row) for history, row in zip(histories, candidates)]
            for r, (items, values) in enumerate(self._scored(histories, orders)):
                scores[r, items] = torch.from_numpy(values)
            yield rows, scores.to(item_seq.device)

    def _order(self, history: Sequence[int], candidates: np.ndarray | None) -> list[int] | None:
        """The candidates that have a title, as the prompt lists them; ``None`` is the catalogue."""
        if candidates is not None:
            return [i for i in shuffled(candidates, history, self.seed) if self.asked.titles[i]]
        if self.rank_by != "loglik":
            raise UserError(
                f"rank_by: {self.rank_by} ranks candidates that are listed, and none were given.",
                "Evaluate with --candidates=20. Recommending from the catalogue takes a run with rank_by: loglik.",
            )
        return None

    def _scored(
        self, histories: Sequence[list[int]], orders: Sequence[list[int] | None]
    ) -> Iterable[tuple[list[int], np.ndarray]]:
        """``(items, float32 scores)`` of each session of item ids, oldest first."""
        if self.rank_by == "generate":
            return self._listed(histories, [order or [] for order in orders])
        return map(self._likely, histories, orders)

    def _likely(self, history: list[int], order: list[int] | None) -> tuple[list[int], np.ndarray]:
        """By the likelihood of each answer."""
        if order is None:
            found, items = self._catalogue, self._named
        else:
            items, found = order, self._continuations([self.asked.answer(i, order) for i in order])
        room = int(found.lengths.max(initial=1))
        summed = found.logliks(self.lm.network, self._prompt(history, order, room), self.lm.tokenizer.pad_token_id)
        return items, summed if self.rank_by == "letter" else summed / found.lengths.astype(np.float32)

    def _listed(
        self, histories: Sequence[list[int]], orders: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """By the lists that the model writes, all sessions at once."""
        asked = [r for r, order in enumerate(orders) if order]
        prompts = [self._prompt(histories[r], orders[r], self.longest) for r in asked]
        answers = dict(zip(asked, greedy_answers(self.lm, prompts, self.longest) if asked else []))
        for r, order in enumerate(orders):
            lines = lines_of(answers.get(r, ""), self.wanted)
            found = reorder(lines, [self.asked.titles[i] for i in order])
            named = [order[place] for place in found.places[: found.named]]
            self.written.update(sessions=1, lines=found.lines, strange=found.strange, without_items=not named)
            yield named, len(order) - np.arange(len(named), dtype=np.float32)

    def answer_facts(self) -> dict[str, float]:
        """Of answers that were written, over all sessions that were asked about, validation's included: lines, the
        share of them that are no candidate's title, and of sessions without any candidate named; ``{}`` of none."""
        found = self.written
        if not found["sessions"]:
            return {}
        return {
            "lines_a_session": found["lines"] / found["sessions"],
            "no_candidates_title": found["strange"] / max(1, found["lines"]),
            "sessions_without_items": found["without_items"] / found["sessions"],
        }

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
            f"Use fewer candidates, fewer text_fields, {'a lower max_new_tokens, ' * (self.rank_by == 'generate')}"
            "or another lm.",
        )


def lines_of(answer: str, wanted: int) -> list[str]:
    """The titles that an answer names, at most ``wanted``; of one wanted the first line as it is: a number before it
    may be the title's own."""
    if wanted > 1:
        return listed_titles(answer)[:wanted]
    return [line for line in answer.split("\n") if line.strip()][:1]


def as_bytes(texts: Sequence[str]) -> Tensor:
    """uint8: texts in UTF-8, each ended by a zero byte; a buffer that a checkpoint holds."""
    return torch.frombuffer(
        bytearray(b"".join(t.replace("\0", " ").encode() + b"\0" for t in texts) or b"\0"), dtype=torch.uint8
    )


def as_texts(kept: Tensor) -> list[str]:
    """The inverse of :func:`as_bytes`."""
    return [part.decode() for part in kept.cpu().numpy().tobytes().split(b"\0")[:-1]]
