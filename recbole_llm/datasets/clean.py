"""Text as atomic files can hold it: one line, no tabs, no HTML entities; ids that RecBole reads back unchanged."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from typing import Any

#: C0 and C1 controls, the line separators that `str.splitlines` cuts at, the byte-order mark.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_SPACES = re.compile(r"\s+")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
#: What pandas, and so RecBole, reads as a missing value: a user of that name would silently be dropped.
MISSING_WORDS = frozenset(
    ["#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
) | {"NULL", "NaN", "None", "n/a", "nan", "null"}
PAD = "[PAD]"


def clean_text(value: Any, strip_tags: bool = False) -> str:
    """One field of an item as one line of text.

    HTML entities are decoded (twice: ``&amp;quot;`` occurs), tabs, newlines and control characters become spaces,
    runs of spaces one space. A field that *starts* with ``"`` has its double quotes written as single ones, because
    a reader with quoting (RecBole's) would swallow the lines up to the next one. Lists are joined by ``", "``.

    Args:
        strip_tags: also removes HTML tags, for publishers that ship them.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple)):
        return clean_text(", ".join(filter(None, (clean_text(v, strip_tags) for v in value))))
    text = str(value)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if strip_tags and "<" in text:
        text = _TAG.sub(" ", text)
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))
    text = _SPACES.sub(" ", text).strip()
    if text.startswith('"'):
        text = text.replace('"', "'")
    return text


def clean_number(value: Any) -> str:
    """A price or another number as text: ``"$1,299.50"`` → ``"1299.5"``; what is no number is empty."""
    text = clean_text(value).lstrip("$€£ ").replace(",", "")
    try:
        number = float(text)
    except ValueError:
        return ""
    return format_number(number) if math.isfinite(number) else ""


def format_number(number: float) -> str:
    """The shortest text that reads back as the same double; whole numbers without a point."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e18 else repr(number)


def safe_token(token: str) -> str:
    """An id as atomic files can hold it: itself, unless a reader would change or drop it.

    Tabs, control characters, line ends and surrogates, a leading ``"``, leading and trailing spaces, the words
    pandas reads as missing (``NA``, ``null`` …) and RecBole's ``[PAD]`` are percent-encoded; so is a ``%`` in such
    a token, which keeps different ids different unless the source spells one id in the other's encoding (counted
    as a clash by the caller).
    """
    if token in MISSING_WORDS or token == PAD:
        return _percent(token[0]) + token[1:]
    changed = _CONTROL.search(token) or _SURROGATE.search(token) or token[:1] in ('"', " ") or token[-1:] == " "
    if not changed and token.strip() == token:
        return token
    last = len(token) - 1
    return "".join(
        _percent(c)
        if c == "%" or _CONTROL.match(c) or _SURROGATE.match(c) or (i in (0, last) and (c == '"' or c.isspace()))
        else c
        for i, c in enumerate(token)
    )


def _percent(character: str) -> str:
    return "".join(f"%{b:02X}" for b in character.encode("utf-8", "surrogatepass"))


def join_paths(paths: Any) -> str:
    """Category paths as text: ``[["Beauty", "Hair Care"], ["Gifts"]]`` → ``"Beauty > Hair Care | Gifts"``."""
    if not isinstance(paths, (list, tuple)):
        return clean_text(paths)
    if not any(isinstance(p, (list, tuple)) for p in paths):
        paths = [paths]
    joined = (" > ".join(filter(None, map(clean_text, p if isinstance(p, (list, tuple)) else [p]))) for p in paths)
    return " | ".join(_unique(filter(None, joined)))


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
