"""NumPy's removed names, which RecBole's code still asks for."""

from __future__ import annotations

import numpy as np

#: Aliases removed in numpy 2 that RecBole's code still asks for.
NUMPY_ALIASES = {
    "float_": "float64",
    "complex_": "complex128",
    "object_": "object_",
    "unicode_": "str_",
    "bool8": "bool_",
    "long": "int64",
    "float": "float64",
    "int": "int64",
    "complex": "complex128",
    "object": "object_",
    "str": "str_",
    "unicode": "str_",
    "bool": "bool_",
}


def restore_aliases() -> None:
    """Gives numpy 2 the names it dropped."""
    for alias, name in NUMPY_ALIASES.items():
        if alias not in vars(np):  # asking numpy itself warns of names it removed
            setattr(np, alias, getattr(np, name))
