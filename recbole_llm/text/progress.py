"""The progress bar of long work on texts."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """tqdm on stderr, or nothing.

    Args:
        total: of what is counted; ``None`` where it is not known.
    """

    def __init__(self, total: int | None, name: str, unit: str, show: bool):
        self._bar: Any = None
        if show:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit=unit, file=sys.stderr, leave=False)

    def __enter__(self) -> Bar:
        return self

    def update(self, n: int) -> None:
        """Counts ``n`` more."""
        if self._bar is not None:
            self._bar.update(n)

    def say(self, words: str) -> None:
        """Shows ``words`` behind the count."""
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
