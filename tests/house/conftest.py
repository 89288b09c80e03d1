"""Distributions written to a temporary folder on ``sys.path``, as pip would leave them."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

HEAD = """
import numpy as np
from recbole_llm import HOOK_API as _API, Metric, TextEncoder, hookimpl
HOOK_API = 1

class Encoder(TextEncoder):
    def encode(self, texts):
        return np.ones((len(texts), 2), dtype=np.float32)
    def fingerprint(self):
        return {"id": "ones"}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(distribution, source)`` writes a module and its entry point; returns its ``.dist-info`` folder."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def write(distribution, source, entry=None, version="1.0", attribute=""):
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[recbole_llm]\n{entry or distribution} = {module}{attribute}\n")
        importlib.invalidate_caches()
        return info

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """``bundled(name=source, …)`` puts a package of such modules in the place of the bundled plugins."""
    root = tmp_path / "bundle"
    package = root / "stand_in_plugins"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr("recbole_llm.plugins.BUNDLED", package.name)

    def write(**modules):
        for name, source in modules.items():
            (package / f"{name}.py").write_text(HEAD + textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] == package.name]:
        del sys.modules[name]
