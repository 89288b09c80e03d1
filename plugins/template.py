"""The generator ``template``: A BASELINE, NOT A LANGUAGE MODEL. It writes by rule, from a record's own words.

A signal of an item is a sentence of its category and brand words. The long-term intent of a session is the title in its
middle (the medoid of its items' vectors), the short-term intent its last titles; a list of items is what its record
holds as LLMSeqSim's. Nothing is inferred and no prompt is
read, so its numbers say what a *text* of that shape is worth, before any language model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from recbole_llm import Answer, Failure, Limits, Request, TextGenerator, hookimpl

HOOK_API = 1

#: Words of an item in its signal: filled up to the first where its columns allow, cut at the second. With the seven
#: words around them that is LaMAR's 10 to 30.
FEWEST, MOST = 10, 23
#: Of those, words that the brand may take.
BRAND_WORDS = 6
#: Words of an intent: longer titles are cut, and further ones left out.
LONGEST = 50
#: What item columns say, by their names; the first that fits.
COLUMNS = {
    "brand": re.compile("brand|manufacturer|director|artist|author|developer|publisher", re.I),
    "category": re.compile(r"categor|genre|class|department|(^|_)(tags?|type)($|_)", re.I),
    "title": re.compile("title|name", re.I),
}
#: Words that hold a letter; hyphens and apostrophes inside belong to them.
_WORD = re.compile(r"(?=[\w'’&-]*[^\W\d_])[^\W_]+(?:[-'’&][^\W_]+)*")
#: The signal that the LaMAR paper gives a dataset whose name holds the word; the last ones are its worked examples.
SIGNALS = {
    "office": "Product Function",
    "instrument": "Music Genre",
    "music": "Music Genre",
    "game": "Gameplay Experience Focus",
    "steam": "Gameplay Experience Focus",
    "scientific": "Primary Use Case",
    "arts": "Primary Craft Purpose",
    "pet": "Pet's Specific Need",
    "ml": "How the Movie Ends",
    "movie": "How the Movie Ends",
    "beauty": "Key Benefit",
    "book": "Main Theme",
}
ANY_SIGNAL = "Primary Use Case"


@dataclass
class Options:
    last_titles: int = field(
        default=3, metadata={"range": (1, None), "help": "Last different titles that make a short-term intent."}
    )


class Template(TextGenerator):
    """Items to brand and category words, sessions to titles of their own, datasets to a signal of the paper."""

    name: ClassVar[str] = "template"
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(texts=256)
    reads_record: ClassVar[bool] = True
    wants_vectors: ClassVar[bool] = True
    baseline: ClassVar[bool] = True

    def fingerprint(self) -> dict[str, Any]:
        return {
            "provider": "template",
            "what": "BASELINE, NOT AN LLM",
            "version": 2,
            "last_titles": self.options.last_titles,
        }

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        for i, request in enumerate(requests):
            yield i, self._write(request.record)

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """No message is read."""
        return [1] * len(requests)

    def _write(self, record: Mapping[str, Any]) -> Answer | Failure:
        if "titles" in record and "items" in record:
            text = self._intent(record)
            return Answer(text) if text else Failure("no item of the session has a title")
        if "item_id" in record:
            text = signal(record)
            return Answer(text) if text else Failure("the item has no words but its title")
        if "dataset" in record:
            return Answer(f"Recommended feature: {dataset_signal(str(record['dataset']))}")
        return Failure("the generator 'template' reads records of items, sessions and datasets; this is none")

    def _intent(self, record: Mapping[str, Any]) -> str:
        for known in ("similar", "near_categories"):
            if record.get(known):
                return "\n".join(record[known])
        titles = [" ".join(str(t or "").split()[:LONGEST]) for t in record["titles"]]
        if not any(titles):
            return ""
        if record.get("view") == "long":
            at = medoid(record.get("vectors"), [bool(t) for t in titles])
            return titles[at] if at is not None else most_repeated(titles)
        latest = [t for t in dict.fromkeys(reversed(titles)) if t]
        latest = latest[: self.options.last_titles if record.get("view") == "short" else 1]
        upto = accumulate(len(t.split()) for t in latest)
        return "; ".join(t for t, words in zip(latest, upto) if words <= LONGEST)


def medoid(vectors: Any, allowed: Sequence[bool]) -> int | None:
    """The click whose item is most like all clicks' items: the largest sum of cosines. Of equal ones the latest.

    Args:
        vectors: float ``[n, D]``, one a click; zeros where an item has none, which is then neither chosen nor counted.
        allowed: bool ``[n]``, the clicks that may be chosen.

    Returns: its position, or ``None`` where no allowed click has a vector.
    """
    if vectors is None:
        return None
    x = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    likeness = np.where((length[:, 0] > 0) & np.asarray(allowed, dtype=bool), x @ x.sum(axis=0), -np.inf)
    best = likeness.max(initial=-np.inf)
    return int(np.flatnonzero(likeness >= best - 1e-9)[-1]) if np.isfinite(best) else None


def most_repeated(titles: Sequence[str]) -> str:
    """The title that occurs most often; of equally frequent ones that with the latest click. Blank ones do not."""
    counts = Counter(t for t in titles if t)
    latest = {t: i for i, t in enumerate(titles)}
    return max(counts, key=lambda t: (counts[t], latest[t]))


def signal(record: Mapping[str, Any]) -> str:
    """``An item of the kind CATEGORY by BRAND, MORE``: different words of the item's columns, of which those that are
    neither category nor brand only fill up. Its title plays no part. Empty where it has no words but a title."""
    columns: dict[str, list[str]] = {"brand": [], "category": [], "other": [], "title": []}
    for name, value in record.items():
        if isinstance(value, str) and name not in ("item_id", "view"):
            kind = next((k for k, pattern in COLUMNS.items() if pattern.search(name)), "other")
            columns[kind] += [] if "://" in value else _WORD.findall(value)
    seen: set[str] = set()
    brand = _new(columns["brand"], seen, BRAND_WORDS)
    category = _new(columns["category"], seen, MOST - len(brand))
    other = _new(columns["brand"] + columns["other"], seen, FEWEST - len(brand) - len(category))
    parts = [f" of the kind {' '.join(category)}" if category else "", f" by {' '.join(brand)}" if brand else ""]
    parts += [f", {' '.join(other)}" if other else ""]
    return f"An item{''.join(parts)}" if any(parts) else ""


def _new(words: Sequence[str], seen: set[str], most: int) -> list[str]:
    """The first ``most`` different words that are not in ``seen``, which gets them."""
    kept: list[str] = []
    for word in words:
        if len(kept) < most and word.casefold() not in seen:
            seen.add(word.casefold())
            kept.append(word)
    return kept


def dataset_signal(name: str) -> str:
    """The signal that the LaMAR paper gives such a dataset, by a word in its name."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((said for word, said in SIGNALS.items() if word in words or f"{word}s" in words), ANY_SIGNAL)


@hookimpl
def register_generators(register):
    register("template", Template)
