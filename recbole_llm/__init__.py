"""recbole-llm: large language models for sequential recommendation, as a plugin-based extension of RecBole.

Public names are loaded on first use, so importing this package (or listing plugins) imports neither torch nor
recbole nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "run": "recbole_llm.runner",
    "load": "recbole_llm.runner",
    "Run": "recbole_llm.runner",
    "hookimpl": "recbole_llm.hookspecs",
    "HOOK_API": "recbole_llm.hookspecs",
    "TextEncoder": "recbole_llm.text.contracts",
    "TextGenerator": "recbole_llm.text.contracts",
    "Recipe": "recbole_llm.text.recipes",
    "RecipeContext": "recbole_llm.text.recipes",
    "Reducer": "recbole_llm.text.contracts",
    "Limits": "recbole_llm.text.contracts",
    "Request": "recbole_llm.text.contracts",
    "Answer": "recbole_llm.text.contracts",
    "Failure": "recbole_llm.text.contracts",
    "Retryable": "recbole_llm.text.contracts",
    "request_digest": "recbole_llm.text.request_key",
    "prompt_ids": "recbole_llm.text.chat_frame",
    "listed_titles": "recbole_llm.text.listed",
    "numbered_list": "recbole_llm.text.listed",
    "tidy_title": "recbole_llm.text.listed",
    "ModelSource": "recbole_llm.text.checkpoints",
    "length_batches": "recbole_llm.text.checkpoints",
    "model_device": "recbole_llm.text.checkpoints",
    "quiet_loading": "recbole_llm.text.checkpoints",
    "attach_adapter": "recbole_llm.lm.adapters",
    "placed_adapter": "recbole_llm.lm.adapters",
    "refuse_masked": "recbole_llm.lm.language_model",
    "end_tokens": "recbole_llm.lm.decoding",
    "generate_tokens": "recbole_llm.lm.decoding",
    "pad_token": "recbole_llm.lm.decoding",
    "folder_digest": "recbole_llm.text.checkpoints",
    "sha256_file": "recbole_llm.text.checkpoints",
    "unreadable_model": "recbole_llm.text.checkpoints",
    "SignalFilters": "recbole_llm.text.signal_filters",
    "SessionEncoder": "recbole_llm.models.contracts",
    "SessionState": "recbole_llm.models.contracts",
    "Inputs": "recbole_llm.models.inputs",
    "Converter": "recbole_llm.datasets.contracts",
    "ConverterOptions": "recbole_llm.datasets.contracts",
    "RawFile": "recbole_llm.datasets.contracts",
    "Interactions": "recbole_llm.datasets.contracts",
    "Metric": "recbole_llm.metrics.contracts",
    "Ranking": "recbole_llm.metrics.contracts",
    "UserError": "recbole_llm.errors",
    "MissingExtra": "recbole_llm.errors",
}
__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from recbole_llm.datasets.contracts import Converter, ConverterOptions, Interactions, RawFile
    from recbole_llm.errors import MissingExtra, UserError
    from recbole_llm.hookspecs import HOOK_API, hookimpl
    from recbole_llm.lm.adapters import attach_adapter, placed_adapter
    from recbole_llm.lm.decoding import end_tokens, generate_tokens, pad_token
    from recbole_llm.lm.language_model import refuse_masked
    from recbole_llm.metrics.contracts import Metric, Ranking
    from recbole_llm.models.contracts import SessionEncoder, SessionState
    from recbole_llm.models.inputs import Inputs
    from recbole_llm.runner import Run, load, run
    from recbole_llm.text.chat_frame import prompt_ids
    from recbole_llm.text.checkpoints import (
        ModelSource,
        folder_digest,
        length_batches,
        model_device,
        quiet_loading,
        sha256_file,
        unreadable_model,
    )
    from recbole_llm.text.contracts import (
        Answer,
        Failure,
        Limits,
        Reducer,
        Request,
        Retryable,
        TextEncoder,
        TextGenerator,
    )
    from recbole_llm.text.listed import listed_titles, numbered_list, tidy_title
    from recbole_llm.text.recipes import Recipe, RecipeContext
    from recbole_llm.text.request_key import request_digest
    from recbole_llm.text.signal_filters import SignalFilters


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'recbole_llm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
