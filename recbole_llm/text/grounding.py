"""Grounding: generated titles to items of the catalogue, by exact title, else by the nearest unused item.

Titles are compared as :func:`~recbole_llm.text.titles.fold_title` writes them. A generated title that is no item's then
is tried once more without a leading list number or bullet, so a catalogue's own ``1. FC Nürnberg scarf`` is found too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.text.embed import check_vectors
from recbole_llm.text.nearest_items import NearestItems
from recbole_llm.text.titles import fold_title, plain_title, without_number

#: Titles whose vectors are held at once.
_ASKS = 4096

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Grounded:
    """Lists of items and what it took to get them: the columns of Boz et al. (TORS 2025), Table 7.

    Attributes:
        lists: rows of the catalogue, one list each, distinct, in order.
        titles: titles that were given and say something; a title sampled ``c`` times counts ``c`` times.
        empty: titles that say nothing; they have no item.
        ungrounded: of ``titles``, those that are no item's title (hallucinations).
        unplaced: of ``titles``, those that got no item: all are used, or nothing has a vector.
        similarity: mean cosine of the ungrounded titles to the item that each took; ``None`` without any.
    """

    lists: list[list[int]]
    titles: int
    empty: int
    ungrounded: int
    unplaced: int
    similarity: float | None

    @property
    def share_ungrounded(self) -> float:
        """Ungrounded titles over all titles; 0 of none."""
        return self.ungrounded / self.titles if self.titles else 0.0

    @property
    def unique(self) -> int:
        """Different items in all lists."""
        return len({row for rows in self.lists for row in rows})

    def columns(self) -> dict[str, float | int | None]:
        """The three figures of Table 7."""
        return {"ungrounded": self.share_ungrounded, "similarity": self.similarity, "unique": self.unique}


@dataclass
class _Ask:
    """A title that wants ``wanted`` items near it, for the list ``at``; ``row`` where it is that item's title."""

    at: int
    text: str
    row: int | None
    wanted: int
    given: int = 1  # how often it was given
    placed: bool = False  # it has an item already, and wants neighbours
    place: int = 0
    found: list[int] = field(default_factory=list)
    similarity: float | None = None


class Grounder:
    """A catalogue that titles are looked up in.

    Args:
        tokens: the item of each row.
        titles: its title; empty or ``None`` where it has none.
        popularity: its training clicks, ``[n]``: of items with one title the most popular unused one is taken, and
            equal cosines are settled by it, then by token.
        encode: texts to float32 ``[m, D]``; asked only for titles that are no item's.
        vectors: float ``[n, D]``, row ``i`` for item ``i``, from the same encoder; zero rows are near nothing. ``None``
            encodes the titles.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        titles: Sequence[str | None],
        popularity: Sequence[float] | np.ndarray,
        encode: Encode,
        vectors: np.ndarray | None = None,
    ):
        n = len(tokens)
        if not (len(titles) == len(popularity) == n and (vectors is None or len(vectors) == n)):
            raise ValueError("tokens, titles, popularity and vectors have one row an item")
        self.tokens, self.encode = tokens, encode
        order = sorted(range(n), key=lambda row: (-popularity[row], tokens[row]))
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        self._rows: dict[str, list[int]] = {}
        for row in order:
            folded = fold_title(titles[row] or "")
            if folded:
                self._rows.setdefault(folded, []).append(row)
        vectors = self._encoded_titles(titles) if vectors is None else np.asarray(vectors, dtype=np.float32)
        self.near = NearestItems(vectors, rank)

    def rows_of(self, title: str) -> Sequence[int]:
        """The items with this title, the most popular first; none where it is no item's."""
        return self._rows.get(self._key(title), ())

    def _key(self, title: str) -> str:
        folded = fold_title(title)
        return folded if folded in self._rows else without_number(folded)

    def ground(
        self,
        lists: Sequence[Sequence[str]],
        used: Sequence[Collection[int]] | None = None,
        named_only: Sequence[Collection[int]] | None = None,
    ) -> Grounded:
        """One item a title, in the order of the titles.

        First every title that is an item's gets that item; then the others, in order, the nearest item that neither
        ``used`` nor the list holds. A title that comes twice, or whose items are all used, gets its nearest unused
        item.

        Args:
            used: rows that each list must not hold.
            named_only: rows that each list may hold by their titles only, and never as the nearest to another title,
                such as the session's.
        """
        taken, asks, empty, total = self._taken(used, len(lists)), [], 0, 0
        places: list[list[int | None]] = [[None] * len(titles) for titles in lists]
        for at, titles in enumerate(lists):
            for place, title in enumerate(titles):
                text = plain_title(title)
                if not text:
                    empty += 1
                    continue
                total += 1
                rows = self.rows_of(title)
                places[at][place] = row = _take(rows, taken[at])
                if row is None:
                    asks.append(_Ask(at, text, rows[0] if rows else None, 1, place=place))
        self._settle(asks, taken, named_only)
        for ask in asks:
            places[ask.at][ask.place] = ask.found[0] if ask.found else None
        found = [[row for row in rows if row is not None] for rows in places]
        return _reported(found, total, empty, asks)

    def ground_samples(
        self,
        samples: Sequence[Sequence[str] | Mapping[str, int]],
        used: Sequence[Collection[int]] | None = None,
        named_only: Sequence[Collection[int]] | None = None,
    ) -> Grounded:
        """One list a set of sampled answers, by how often each was given [Boz et al., GenItem].

        Items that were named come first, the most frequent first, equal counts in the order of the answers. Behind
        them stand neighbours, again by count: ``c - 1`` of an item that was named ``c`` times, ``c`` of a title that is
        no item's or whose items are used. Neighbours are never items that are used, named, or there already, so a list
        is as long as there are answers, while the catalogue lasts.

        Args:
            samples: the answers, or how often each was given.
            used: rows that each list must not hold.
            named_only: rows that each list may hold by their titles only, and never as neighbours, such as the
                session's.
        """
        taken, asks, empty, total = self._taken(used, len(samples)), [], 0, 0
        found: list[list[int]] = []
        for at, answers in enumerate(samples):
            counts, spelling, blank = self._counted(answers)
            empty += blank
            direct: list[int] = []
            for key, count in sorted(counts.items(), key=lambda pair: -pair[1]):
                total += count
                rows = self._rows.get(key, ())
                row = _take(rows, taken[at])
                if row is not None:
                    direct.append(row)
                if count > (row is not None):
                    near = rows[0] if rows and row is None else row
                    asks.append(_Ask(at, spelling[key], near, count - (row is not None), count, row is not None))
            found.append(direct)
        self._settle(asks, taken, named_only)
        for ask in asks:
            found[ask.at] += ask.found
        return _reported(found, total, empty, asks)

    def nearest(
        self, queries: np.ndarray, k: int, exclude: Sequence[Iterable[int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items of each query: see :meth:`recbole_llm.text.nearest_items.NearestItems.find`."""
        return self.near.find(queries, k, exclude)

    def _settle(
        self, asks: Sequence[_Ask], taken: Sequence[set[int]], named_only: Sequence[Collection[int]] | None
    ) -> None:
        """Gives each ask its nearest items that its list has not taken, and that may be there unnamed, in order."""
        kept_out = self._taken(named_only, len(taken))
        wanted: dict[int, int] = {}
        for ask in asks:
            wanted[ask.at] = wanted.get(ask.at, 0) + ask.wanted
        for begin in range(0, len(asks), _ASKS):
            part = asks[begin : begin + _ASKS]
            most = max(wanted[ask.at] for ask in part)  # enough, whatever the asks before it in its list take
            found, cosines = self.nearest(self._queries(part), most, [taken[ask.at] | kept_out[ask.at] for ask in part])
            for ask, rows, near in zip(part, found, cosines):
                mine = taken[ask.at]
                free = [i for i, row in enumerate(rows.tolist()) if row >= 0 and row not in mine][: ask.wanted]
                ask.found = rows[free].tolist()
                ask.similarity = float(near[free[0]]) if free else None
                mine.update(ask.found)

    def _queries(self, asks: Sequence[_Ask]) -> np.ndarray:
        """float32 ``[len(asks), D]``: the item's own vector, or the encoded title."""
        out = np.zeros((len(asks), self.near.vectors.shape[1]), dtype=np.float32)
        if self.near.empty:
            return out
        texts = list(dict.fromkeys(ask.text for ask in asks if ask.row is None))
        encoded = check_vectors(self.encode(texts), len(texts), "grounding") if texts else out[:0]
        if encoded.shape[1] != out.shape[1]:
            raise UserError(
                f"Titles are encoded to width {encoded.shape[1]}; the catalogue's vectors have width {out.shape[1]}.",
                "Both must come from one encoder, without a reducer.",
            )
        place = {text: i for i, text in enumerate(texts)}
        for i, ask in enumerate(asks):
            out[i] = encoded[place[ask.text]] if ask.row is None else self.near.vectors[ask.row]
        return out

    def _encoded_titles(self, titles: Sequence[str | None]) -> np.ndarray:
        """float32 ``[n, D]``, zeros for items without a title."""
        present = [row for row, title in enumerate(titles) if title and title.strip()]
        texts = list(dict.fromkeys(titles[row] or "" for row in present))
        if not texts:
            return np.zeros((len(titles), 1), dtype=np.float32)
        encoded = check_vectors(self.encode(texts), len(texts), "grounding")
        place = {text: i for i, text in enumerate(texts)}
        out = np.zeros((len(titles), encoded.shape[1]), dtype=np.float32)
        out[present] = encoded[[place[titles[row] or ""] for row in present]]
        return out

    def _counted(self, answers: Sequence[str] | Mapping[str, int]) -> tuple[dict[str, int], dict[str, str], int]:
        """How often each title was given, its first spelling, and how many answers say nothing."""
        pairs = answers.items() if isinstance(answers, Mapping) else ((text, 1) for text in answers)
        counts: dict[str, int] = {}
        spelling: dict[str, str] = {}
        blank = 0
        for text, count in pairs:
            plain, key = plain_title(text), self._key(text)
            if not plain:
                blank += count
                continue
            spelling.setdefault(key, plain)
            counts[key] = counts.get(key, 0) + count
        return counts, spelling, blank

    @staticmethod
    def _taken(used: Sequence[Collection[int]] | None, n: int) -> list[set[int]]:
        if used is not None and len(used) != n:
            raise ValueError(f"there are {len(used)} sets of rows for {n} lists")
        return [set() for _ in range(n)] if used is None else [{int(row) for row in rows} for rows in used]


def _take(rows: Sequence[int], taken: set[int]) -> int | None:
    row = next((row for row in rows if row not in taken), None)
    if row is not None:
        taken.add(row)
    return row


def _reported(lists: list[list[int]], titles: int, empty: int, asks: Sequence[_Ask]) -> Grounded:
    strange = [ask for ask in asks if ask.row is None]
    near = [(ask.similarity, ask.given) for ask in strange if ask.similarity is not None]
    given = sum(weight for _, weight in near)
    return Grounded(
        lists,
        titles,
        empty,
        ungrounded=sum(ask.given for ask in strange),
        unplaced=sum(ask.given for ask in asks if not ask.placed and not ask.found),
        similarity=sum(cosine * weight for cosine, weight in near) / given if given else None,
    )
