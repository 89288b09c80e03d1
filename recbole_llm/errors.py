"""What goes wrong by the user's hand, said so that the user can mend it.

A :class:`UserError` is caught at the command line, printed as a one-screen message without a traceback, and
ends the command with exit code 2. Everything else is a fault of ours: traceback, exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend.

    Args:
        message: what is wrong, naming the file, line, key or value.
        hint: what to do about it, as an imperative sentence or a command to run.
    """

    def __init__(self, message: str, hint: str | None = None):
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}\n  {hint}")


class MissingExtra(UserError):
    """A feature needs packages that the light core does not install."""

    def __init__(self, what: str, extra: str):
        super().__init__(
            f"{what} needs packages that are not installed.",
            f"Run: pip install 'recbole-llm[{extra}]'",
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, torch's on a GPU, or torch's on the CPU (a message only)."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


def can_mend(error: BaseException) -> bool:
    """Whether the user or the machine, not we, stopped the work."""
    return isinstance(error, (UserError, OSError)) or out_of_memory(error)


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The names in ``known`` that look most like ``name``, best first; case is ignored."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=n, cutoff=0.6)
    return [by_lower[f] for f in found]


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody registered, with the nearest names or the whole list."""
    known = sorted(set(known))
    close = nearest(name, known)
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    elif len(known) <= 40:
        hint = f"Known: {', '.join(known) or '(none)'}."
    else:
        hint = f"{len(known)} are known; `recbole-llm plugins` lists what is registered."
    return UserError(f"There is no {kind} named '{name}'.", hint)
