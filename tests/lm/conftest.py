from __future__ import annotations

import pytest

from recbole_llm.testing.tiny_lm import tiny_llama
from tests.lm.tunings import COLOURS, SYSTEM, THINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = [SYSTEM["content"], *COLOURS, *THINGS]
    return tiny_llama(tmp_path_factory.mktemp("llama"), texts, context=64)
