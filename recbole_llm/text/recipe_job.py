"""A recipe run over its records: prompts, answers through the store, texts that passed the recipe's own filter."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.text.contracts import Request, TextGenerator
from recbole_llm.text.generating import generate_texts
from recbole_llm.text.generation_rules import GenerationReport, Rules
from recbole_llm.text.generation_store import GenerationStore
from recbole_llm.text.recipes import Recipe, RecipeContext

KEPT, EMPTY = "kept", "empty"
#: The temperature of a further sample.
WARM = 0.7
#: Records whose texts are judged together.
_JUDGED = 4096


@dataclass
class RecipeReport:
    """What became of the records.

    Attributes:
        records: as many as there were (views counted each).
        kept: texts that passed. ``refused``: records left without one, by the last reason. ``failed``: never answered;
            ``failures``: why.
        again: texts refused at first and asked for again.
        rounds: a report a round of requests.
    """

    records: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    again: int = 0
    rounds: list[GenerationReport] = field(default_factory=list)

    def total(self, name: str) -> Any:
        """A number of :class:`GenerationReport`, summed over the rounds."""
        return sum(getattr(r, name) for r in self.rounds)


class Views(Sequence[Mapping[str, Any]]):
    """Each of ``records`` once a view of the recipe; the record's ``view`` says which."""

    def __init__(self, records: Sequence[Mapping[str, Any]], views: Sequence[str]):
        self.records, self.views = records, views

    def __len__(self) -> int:
        return len(self.records) * len(self.views)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return {**self.records[at // len(self.views)], "view": self.views[at % len(self.views)]}


class RecipeJob:
    """One recipe, one generator, one store.

    Args:
        params: how to decode, over what the recipe's prompt says (the ``gen_*`` keys a user set).
        progress: whether a progress bar is shown.
        context: what the recipe is prepared with, when the first records come.

    Attributes:
        dry: where set, nothing is asked: it is called with the key and request of each that has no answer yet. What
            the missing answers would lead to (a next step, another sample) stays unknown.
        heard: where set, called with the key and request of each request made.
        guessing: whether ``dry`` is told of questions that would be others: what the recipe asks before all others
            (:attr:`RecipeContext.ask`) is not answered yet.
    """

    dry: Callable[[bytes, Request], None] | None = None
    heard: Callable[[bytes, Request], None] | None = None
    guessing: bool = False

    def __init__(
        self,
        recipe: Recipe,
        generator: TextGenerator,
        store: GenerationStore,
        rules: Rules | None = None,
        params: Mapping[str, Any] | None = None,
        progress: bool = True,
        context: RecipeContext | None = None,
    ):
        self.recipe, self.generator, self.store, self.context = recipe, generator, store, context
        self.rules, self.params, self.progress = rules or Rules(), dict(params or {}), progress
        self.report = RecipeReport()

    def prepare(self) -> None:
        """Prepares the recipe, once."""
        if self.context is not None:
            self.recipe.prepare(dataclasses.replace(self.context, ask=self.ask))
            self.context = None

    def ask(self, requests: Sequence[Request]) -> list[str | None]:
        """The answers to a few requests, for :attr:`RecipeContext.ask`."""
        keys = self._generate((self.settled(r) for r in requests), len(requests))
        if self.dry is not None:
            settled = {"answered"} if self.rules.retry_failed else {"answered", "failed"}
            self.guessing |= not set(keys) <= {k for k, s in self.store.states(keys).items() if s in settled}
        return self.store.texts(keys)

    def run(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """One text a record (and view); ``None`` where there is none.

        Raises:
            UserError: the recipe made another number of requests than there are records, or what
                :func:`generate_texts` raises.
        """
        self.prepare()
        views = Views(records, self.recipe.views)
        self.report.records = len(views)
        texts: list[str | None] = [None] * len(views)
        open_ = range(len(views))
        for sample in range(1 + self.recipe.retries):
            keys, answers = self._answered(views, open_, sample)
            refused = self._judged(views, open_, keys, answers, texts, last=sample == self.recipe.retries)
            if not refused or sample == self.recipe.retries:
                break
            self.report.again += len(refused)
            open_ = refused  # type: ignore[assignment]
        self.report.kept = sum(t is not None for t in texts)
        return texts

    def settled(self, request: Request) -> Request:
        """A request with the user's decoding parameters. Another sample of what would be decoded greedily is drawn with
        some temperature: it would be the same text again."""
        params = {**request.params, **self.params}
        if request.sample and not params.get("temperature") and "temperature" not in self.params:
            params["temperature"] = WARM
        return request if params == request.params else dataclasses.replace(request, params=params)

    def _first(self, views: Views, at: Sequence[int], sample: int) -> Iterator[Request]:
        count = 0
        for request in self.recipe.requests(views[i] for i in at):
            count += 1
            yield self.settled(dataclasses.replace(request, sample=sample) if sample else request)
        if count != len(at):
            raise UserError(
                f"The recipe {type(self.recipe).__name__} made {count} requests of {len(at)} records.",
                "requests() must yield one a record.",
            )

    def _answered(self, views: Views, at: Sequence[int], sample: int) -> tuple[list[bytes], list[str | None]]:
        """The key and text of each record's last answer."""
        keys = self._generate(self._first(views, at, sample), len(at))
        answers = self.store.texts(keys)
        said: dict[int, list[str]] = {n: [a] for n, a in enumerate(answers) if a is not None}
        while said:
            following = {}
            for n, before in said.items():
                request = self.recipe.follow_up(views[at[n]], before)
                if request is not None:
                    following[n] = self.settled(dataclasses.replace(request, sample=sample) if sample else request)
            if not following:
                break
            new = self._generate(iter(following.values()), len(following))
            texts = self.store.texts(new)
            for n, key, text in zip(following, new, texts):
                keys[n], answers[n] = key, text
            said = {n: [*said[n], t] for n, t in zip(following, texts) if t is not None}
        return keys, answers

    def _judged(
        self,
        views: Views,
        at: Sequence[int],
        keys: list[bytes],
        answers: list[str | None],
        texts: list[str | None],
        last: bool,
    ) -> list[int]:
        """Parses and filters; the records whose text was refused."""
        refused: list[int] = []
        lost = self.store.read([k for k, a in zip(keys, answers) if a is None])
        with contextlib.nullcontext() if self.dry else self.store.writing():
            for start in range(0, len(at), _JUDGED):
                verdicts = []
                some = slice(start, start + _JUDGED)
                for i, key, answer in zip(at[some], keys[some], answers[some]):
                    if answer is None:
                        self.report.failed += 1
                        self.report.failures[getattr(lost.get(key), "reason", None) or "not asked"] += 1
                        continue
                    text = self.recipe.parse(answer)
                    reason = self.recipe.accept(text, views[i]) if text.strip() else EMPTY
                    verdicts.append((key, reason or KEPT))
                    if reason is None:
                        texts[i] = text
                        continue
                    refused.append(i)
                    if last:
                        self.report.refused[reason] += 1
                if not self.dry:
                    self.store.judge(verdicts)
        return refused

    def _generate(self, requests: Iterator[Request], total: int) -> list[bytes]:
        if self.heard is not None:
            requests = self._heard(requests, self.heard)
        if self.dry is not None:
            return self._looked_up(requests, self.dry)
        keys, report = generate_texts(
            self.generator, requests, self.store, self.rules, total=total, progress=self.progress
        )
        self.report.rounds.append(report)
        return keys

    def _heard(self, requests: Iterator[Request], tell: Callable[[bytes, Request], None]) -> Iterator[Request]:
        for request in requests:
            tell(self.store.key(request), request)
            yield request

    def _looked_up(self, requests: Iterator[Request], tell: Callable[[bytes, Request], None]) -> list[bytes]:
        report, keys = GenerationReport(), []
        known: set[bytes] = set()
        while some := list(itertools.islice(requests, _JUDGED)):
            pairs = [(self.store.key(r), r) for r in some]
            keys += [k for k, _ in pairs]
            states = self.store.states([k for k, _ in pairs])
            for key, request in pairs:
                if key in known:
                    continue
                known.add(key)
                state = states.get(key)
                report.stored += state == "answered"
                report.failed_before += state == "failed"
                if state != "answered" and (state != "failed" or self.rules.retry_failed):
                    tell(key, request)
        report.requests, report.distinct = len(keys), len(known)
        self.report.rounds.append(report)
        return keys
