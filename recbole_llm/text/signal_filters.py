"""What a generated item signal must not be: automatic filters, each with a name and a rule that can be checked.

LaMAR (Valizadeh et al., 2025) lets people discard signals that contradict their item; these rules are ours. They refuse
little and surely: a signal that passes is not thereby good, which the review file is for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from recbole_llm.text.item_text import ROLES

REASONS = ("refusal", "too short", "too long", "copy of the title", "names the signal", "inconsistent with metadata")
#: Share of a signal's different words that stand in the title, from which on it is a copy.
COPY = 0.8

_WORD = re.compile(r"[\w&]+(?:['’.\-][\w]+)*")
_REFUSAL = re.compile(
    r"^(?:(?:i\s+am|i['’]?m)\s+(?:sorry|unable|not\s+able)\b|sorry,|i\s+(?:cannot|can['’]?t|could\s+not)\b|unfortunately,"
    r"|unable\s+to\s+(?:determine|provide|generate|identify)\b)"
    r"|^(?:unknown|none|n/?a|not\s+(?:available|applicable|specified))\W*$"
    r"|\bas\s+an?\s+(?:ai(?:\s+language)?|(?:large\s+)?language)\s+(?:model|assistant)\b"
    r"|\b(?:not\s+enough|insufficient)\s+(?:information|details?|data|context)\b"
    r"|\bno\s+(?:information|details|data)\s+(?:is\s+|are\s+|was\s+)?(?:available|provided|given)\b"
    r"|\b(?:cannot|can['’]t|could\s+not)\s+be\s+determined\b",
    re.IGNORECASE,
)
_PAIRS = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»", "`": "`", "*": "*", "_": "_"}
#: Words of a name that is looked for in a text, at most.
_LONGEST_NAME = 4
_NO_BRAND = {"unknown", "generic", "none", "n a", "na", "unbranded", "no brand", "various", "misc", "other"}
_CATEGORY_NOUNS = {"category", "genre", "department", "section"}


class SignalFilters:
    """The filters for one signal of one catalogue.

    Args:
        signal: its name, such as ``Product Function``.
        items: item token → its fields: what brands and categories there are.
        shortest, longest: words.
    """

    def __init__(
        self,
        signal: str,
        items: Mapping[str, Mapping[str, str]] | None = None,
        shortest: int = 5,
        longest: int = 60,
    ):
        self.signal, self.shortest, self.longest = signal, shortest, longest
        self.metadata = Metadata((items or {}).values())

    def clean(self, answer: str) -> str:
        """The signal in an answer; see :func:`clean_signal`."""
        return clean_signal(answer, self.signal)

    def refuse(self, text: str, item: Mapping[str, str]) -> str | None:
        """``None``, or the first of :data:`REASONS` that holds of ``text`` as the signal of ``item``."""
        count = len(words(text))
        if is_refusal(text):
            return "refusal"
        if count < self.shortest:
            return "too short"
        if count > self.longest:
            return "too long"
        if title_overlap(text, _of_role(item, "title")) >= COPY:
            return "copy of the title"
        if names_signal(text, self.signal):
            return "names the signal"
        return "inconsistent with metadata" if self.metadata.contradicted(text, item) else None


def words(text: str) -> list[str]:
    """The words of ``text``; an apostrophe, a dot or a hyphen inside belongs to its word. Scripts without spaces have
    few words, so these filters are not for them."""
    return _WORD.findall(text)


def clean_signal(answer: str, signal: str) -> str:
    """``answer`` on one line, without quotes or asterisks around it and without the signal's name before a colon or
    dash."""
    name = r"\s+".join(re.sub(r"['’]", "['’]", re.escape(word)) for word in signal.split())
    label = re.compile(rf"^[\"“'*_#\s<]*{name}[\"”'*_>\s]*(?::|\s[-–—]\s)[*_\s]*", re.IGNORECASE)
    text, before = " ".join(answer.split()), None
    while text != before:
        before = text
        if len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        text = label.sub("", text)
    return text


def is_refusal(text: str) -> bool:
    """Whether the model says that it does not know, in one of the usual phrases."""
    return bool(_REFUSAL.search(text.strip()))


def title_overlap(text: str, title: str) -> float:
    """The share of the different words of ``text`` that stand in ``title``; 0 of no words."""
    own, given = set(_folded(text)), set(_folded(title))
    return len(own & given) / len(own) if own else 0.0


def names_signal(text: str, signal: str) -> bool:
    """Whether the words of the signal's name stand in ``text`` one after the other."""
    name = tuple(_folded(signal))
    return bool(name) and name in set(_grams(_folded(text), len(name)))


class Metadata:
    """What a catalogue says of brands and categories, and whether a text contradicts it of an item:

    * it names a brand of the catalogue that is not the item's. The item has a brand; no field of the item has the name;
      each of its words is capitalised, and a name of one word does not begin a sentence. A name that items of other
      brands mention in title or category more often than there are items of the brand is a common word and no brand.
    * it says ``X category``, ``X genre``, ``X department``, ``X section`` (or ``genre of X``) of a category X of the
      catalogue with a word that no field of the item has. The item has a category.
    """

    def __init__(self, items: Iterable[Mapping[str, str]]):
        items = list(items)
        own = Counter(_brand(item) for item in items)
        brands = {b for b in own if 0 < len(b) <= _LONGEST_NAME and len("".join(b)) > 2}
        elsewhere: Counter[tuple[str, ...]] = Counter()
        if brands:
            for item in items:
                said = {n for role in ("title", "category") for n in _names(_folded(_of_role(item, role)))}
                elsewhere.update((said & brands) - {_brand(item)})
        self.brands = {b for b in brands if elsewhere[b] <= own[b]}
        self.categories = {name for item in items for name in _categories(_of_role(item, "category"))}

    def contradicted(self, text: str, item: Mapping[str, str]) -> bool:
        """Whether ``text`` says of ``item`` what its fields say otherwise."""
        return self.other_brand(text, item) is not None or self.other_category(text, item) is not None

    def other_brand(self, text: str, item: Mapping[str, str]) -> str | None:
        """The first brand that ``text`` names and that is not the item's."""
        own = _brand(item)
        if not own or not self.brands:
            return None
        mine = {name for value in item.values() for name in _names(_folded(value))}
        found = list(_WORD.finditer(text))
        at = 0
        while at < len(found):
            size = 1
            for n in range(min(_LONGEST_NAME, len(found) - at), 0, -1):
                name = tuple(_fold(m.group()) for m in found[at : at + n])
                if name not in self.brands or not all(_capital(m.group()) for m in found[at : at + n]):
                    continue
                size, start = n, found[at].start()
                if name in mine or set(own) <= set(name) or (n == 1 and _begins(text[:start])):
                    break
                return text[start : found[at + n - 1].end()]
            at += size
        return None

    def other_category(self, text: str, item: Mapping[str, str]) -> str | None:
        """The first category that ``text`` claims and that has a word which the item lacks."""
        if not _of_role(item, "category") or not self.categories:
            return None
        mine = {word for value in item.values() for word in _folded(value)}
        said = _folded(text)
        for at, word in enumerate(said):
            if word not in _CATEGORY_NOUNS:
                continue
            claims = [tuple(said[max(at - n, 0) : at]) for n in range(_LONGEST_NAME, 0, -1)]
            if said[at + 1 : at + 2] == ["of"]:
                claims += [tuple(said[at + 2 : at + 2 + n]) for n in range(_LONGEST_NAME, 0, -1)]
            claimed = next((c for c in claims if c in self.categories), None)
            if claimed is not None and not set(claimed) <= mine:
                return " ".join(claimed)
        return None


def _of_role(item: Mapping[str, str], role: str) -> str:
    """The item's title, brand or category, whatever its column is called."""
    return next((item[column] for column in ROLES[role] if item.get(column)), "")


def _brand(item: Mapping[str, str]) -> tuple[str, ...]:
    name = tuple(_folded(_of_role(item, "brand")))
    return () if " ".join(name) in _NO_BRAND else name


def _categories(value: str) -> Iterator[tuple[str, ...]]:
    """The names in a value: parts between ``>``, ``,``, ``|`` and ``;``, and where nothing parts it each word
    (MovieLens)."""
    parts = re.split(r"[>,|;]", value)
    names = parts if len(parts) > 1 else [value, *value.split()]
    yield from (name for part in names if 0 < len(name := tuple(_folded(part))) <= _LONGEST_NAME)


def _fold(word: str) -> str:
    return word.replace("’", "'").casefold()


def _folded(text: str) -> list[str]:
    return [_fold(word) for word in words(text)]


def _grams(said: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(said[i : i + n]) for i in range(len(said) - n + 1))


def _names(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for n in range(1, _LONGEST_NAME + 1):
        yield from _grams(said, n)


def _begins(before: str) -> bool:
    """Whether a sentence (or the text) begins behind ``before``, where any word has a capital."""
    before = before.rstrip(" \"'“‘(")
    return not before or not (before[-1].isalnum() or before[-1] in ",&-–")


def _capital(word: str) -> bool:
    return word[0].isupper() or not word[0].isalpha()
