"""Whether RecBole is here, in the version we build on, and what to run where it is not."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from importlib import metadata

from recbole_llm.errors import UserError

RECBOLE = "1.2.1"
#: RecBole 1.2.1 demands a ray that has no wheel above Python 3.11; nothing we use of it needs ray.
INSTALL = f"pip install --no-deps recbole=={RECBOLE}"
#: What the parts of RecBole that we use import, as module → distribution.
NEEDS = {
    "colorama": "colorama",
    "colorlog": "colorlog",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "texttable": "texttable",
    "torch": "torch",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
}


@lru_cache(maxsize=1)
def require_recbole() -> None:
    """Call before the first import of RecBole. Imports nothing of it.

    Raises:
        UserError: RecBole, or a module it imports, is not installed, or it is another version; the hint is the one
            line to run.
    """
    if importlib.util.find_spec("recbole") is None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        why = f" (on Python {python} its own requirements cannot be installed, so it is left to you)"
        raise UserError(
            f"RecBole is not installed{why if sys.version_info >= (3, 12) else ''}.",
            f"Run: {INSTALL}",
        )
    version = recbole_version()
    if version is not None and version != RECBOLE:
        raise UserError(f"RecBole {version} is installed; recbole-llm is built on {RECBOLE}.", f"Run: {INSTALL}")
    missing = [distribution for module, distribution in NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"RecBole needs {', '.join(missing)}, not installed.", f"Run: pip install {' '.join(missing)}")


def recbole_version() -> str | None:
    """The installed version, read from its metadata; ``None`` where there is none (a copy on the path)."""
    try:
        return metadata.version("recbole")
    except metadata.PackageNotFoundError:
        return None
