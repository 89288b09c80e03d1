"""Titles as they are compared: a catalogue's own and those that a language model wrote."""

from __future__ import annotations

import re
import unicodedata

_QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛`´′", "'"), **dict.fromkeys("“”„‟«»″", '"')})
_AROUND = "\"'* \t\r\n"
_NUMBER = re.compile(r"(?:[-•–—]|[(\[]?#?\d{1,3}[.):\]]+)(?:\s+|$)")


def fold_title(text: str) -> str:
    """``text`` as titles are compared; empty where nothing is left.

    Compatibility characters (NFKC), case and runs of whitespace are made alike, typographic quotes straight, and quotes
    and asterisks around the whole are dropped.
    """
    return _tidy(unicodedata.normalize("NFKC", text)).casefold()


def plain_title(text: str) -> str:
    """What a generated line names: without a list number or bullet, quotes around it, and runs of whitespace."""
    return without_number(_tidy(text))


def without_number(title: str) -> str:
    """``title`` without a leading list number or bullet: ``3.``, ``(3)``, ``#3:``, ``-``."""
    return _NUMBER.sub("", title, count=1).strip(_AROUND) if _NUMBER.match(title) else title


def _tidy(text: str) -> str:
    return " ".join(text.translate(_QUOTES).split()).strip(_AROUND)
