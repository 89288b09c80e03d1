"""What a language model's answers were worth as names of items: Boz et al. (TORS 2025), Table 7, from run folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_llm.evidence.tables import Number, Spread, Table


def answers_table(rows: Sequence[tuple[str, Sequence[Any]]], where: str = "") -> Table | None:
    """A row a model whose runs looked answers up in the catalogue; ``None`` where none did.

    Args:
        rows: label and runs.
    """
    found = []
    for label, runs in rows:
        said = [s for s in ((r.manifest.get("intents") or {}) for r in runs) if s.get("grounding")]
        if not said:
            continue
        looked = [s["grounding"] for s in said]
        near = [g["similarity"] for g in looked if g["similarity"] is not None]
        by = {str(g.get("similarity_of", "vectors")) for g in looked if g["similarity"] is not None}
        found.append(
            [
                label,
                ", ".join(sorted({str(s.get("label")) for s in said})),
                _mean([s["sessions"] for s in said], 0),
                _mean([_without(s) for s in said], 0),
                _mean([g["titles"] for g in looked], 0),
                _mean([100 * g["ungrounded"] for g in looked], 2),
                _mean(near, 4),
                ", ".join(sorted(by)) or None,
                _mean([g["unique"] for g in looked], 0),
            ]
        )
    if not found:
        return None
    head = [
        "model",
        "written by",
        "sessions",
        "without answer",
        "names",
        "% no item's",
        "similarity",
        "of",
        "different items",
    ]
    notes = [
        "Of all sessions asked about, validation and test. % no item's: names that no item has (of Rank: none of "
        "the candidates', letter by letter). similarity: of those to the item each was taken for, by cosine of their "
        "vectors, or by letters. different items: recommended in all lists together."
    ]
    return Table("answers", f"{where}{': ' if where else ''}names that were answered", head, found, notes)


def _without(said: dict[str, Any]) -> int:
    """Sessions without an answer; of models that ask once, the texts that are missing."""
    return int(said.get("without_answer", said.get("missing", 0)))


def _mean(values: Sequence[float], digits: int) -> Number | None:
    spread = Spread.of(list(values))
    return None if spread is None else Number(spread.mean, digits)
