"""Lists in prompts and in answers: written with numbers, read as models write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"[(\[]?#?\d{1,3}[.):\]]+\**\s+(?=\S)")
_MARK = re.compile(r"^[\s*#`<\[]*(BEGIN|END)[\s*#`>\].:]*$")


def numbered_list(titles: Sequence[str]) -> str:
    """A numbered list."""
    return "\n".join(f"{i}. {title}" for i, title in enumerate(titles, start=1))


def listed_titles(answer: str) -> list[str]:
    """The entries of the list that an answer holds, without their numbers: between BEGIN and END where it has them (of
    two such lists the second, since the first repeats the question), up to the end where END is missing. The numbered
    lines where there are several or they are half of all, else all lines that say something."""
    lines = answer.split("\n")
    marks = {at: m[1] for at, m in ((at, _MARK.match(line)) for at, line in enumerate(lines)) if m}
    blocks = []
    for begin in (at for at, mark in marks.items() if mark == "BEGIN"):
        end = next((at for at in marks if at > begin), len(lines))
        blocks.append(lines[begin + 1 : end])
    rest = [line for at, line in enumerate(lines) if at not in marks]
    return next((found for block in [*blocks[1:2], *blocks[:1], rest] if (found := _entries(block))), [])


def _entries(lines: Sequence[str]) -> list[str]:
    said = [t for t in map(tidy_title, lines) if t]
    numbers = [t for t in said if _NUMBERED.match(t)]
    if len(numbers) < 2 and 2 * len(numbers) < len(said):
        return said  # a number that stands alone belongs to a title
    return [t for t in (tidy_title(_NUMBERED.sub("", t, count=1)) for t in numbers) if t]


def tidy_title(line: str) -> str:
    """A line without quotes and asterisks around it and runs of whitespace; what else titles are written with is left
    to who looks them up."""
    return " ".join(line.strip(" \t\r\"'“”*").split())
