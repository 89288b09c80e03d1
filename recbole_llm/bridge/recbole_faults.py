"""What RecBole's own code stumbles over, told as RecBole's: settings and columns it uses unchecked."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import recbole

import recbole_llm
from recbole_llm.errors import UserError

_HINTS = {
    "_update": "scipy removed what this model uses: pip install 'scipy<1.13'",
    "Training loss is nan": "Training diverged: lower learning_rate, or set clip_grad_norm.",
}
_THEIRS, _OURS = (str(Path(str(p.__file__)).parent) for p in (recbole, recbole_llm))


@contextmanager
def without_pandas_advice() -> Iterator[None]:
    """Without what pandas says of RecBole's own calls, which no user can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
        yield


@contextmanager
def told_as_recboles(config: Any) -> Iterator[None]:
    """Turns an error raised by RecBole's code (or by a library it called) into a :class:`UserError` that says what
    RecBole asked for. Errors that pass through our code last stay what they are."""
    try:
        yield
    except (KeyError, ValueError, AttributeError, TypeError, NotImplementedError, AssertionError) as e:
        frames = traceback.extract_tb(e.__traceback__)
        last = next((f for f in reversed(frames) if f.filename.startswith((_THEIRS, _OURS))), None)
        if last is None or last.filename.startswith(_OURS):
            raise
        where = f"{Path(last.filename).relative_to(_THEIRS)}, line {last.lineno}"
        what = f"field or setting {e}" if isinstance(e, KeyError) else f"{e}".split("\n")[0] or type(e).__name__
        hint = next((h for word, h in _HINTS.items() if word in str(e)), None)
        raise UserError(
            f"RecBole's own code stops a run of {config['model']} on {config['dataset']}: {what} ({where}).",
            hint or "It may want other settings, or columns in load_col that this dataset or its features must have.",
        ) from e
