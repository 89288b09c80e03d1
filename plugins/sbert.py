"""The encoder ``sbert``: any sentence-transformers model, by Hugging Face id or local folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm import MissingExtra, ModelSource, TextEncoder, UserError, hookimpl, length_batches, model_device

HOOK_API = 1

#: Tokens a forward pass: small on a CPU (its cache), large on an accelerator.
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 32768
DTYPES = ("float32", "bf16")


@dataclass
class Options:
    model: str | None = field(
        default=None, metadata={"help": "A Hugging Face id (intfloat/e5-small-v2) or a local folder."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the id; default: main."})
    dtype: str = field(default="float32", metadata={"choices": DTYPES, "help": "bf16 is faster and less exact."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 …; default: CUDA if present."})
    max_tokens: int | None = field(
        default=None, metadata={"range": (1, None), "help": "Texts are cut here; default: the model's own limit."}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Put before every item text ('passage: '); default: the model's own."}
    )
    query_prompt: str | None = field(
        default=None, metadata={"help": "Put before every query ('query: '); default: the model's own."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})


class Sbert(TextEncoder):
    """sentence-transformers 5 and 6, loaded from the local cache at a fixed commit."""

    name: ClassVar[str] = "sbert"
    Options: ClassVar[type] = Options

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        model = self.options.model
        if not model:
            raise UserError(
                f"The encoder '{self.name}' needs the key 'text_model'.",
                "Name a sentence-transformers model: --text_model=sentence-transformers/all-mpnet-base-v2",
            )
        source = ModelSource.of(model, self.options.revision)
        if source.path is None and "/" not in model:  # sentence-transformers' own short names
            source = ModelSource.of(f"sentence-transformers/{model}", self.options.revision)
        return source

    def prepare(self) -> None:
        """Fetches a Hugging Face model that is not in the local cache."""
        if self.source.folder() is None:
            self.source.fetch()

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        return {
            "provider": self.name,
            **self.source.fingerprint(),
            "max_tokens": o.max_tokens,
            "prompt": o.prompt,
            "query_prompt": o.query_prompt,
            "dtype": o.dtype,
            "trust_remote_code": o.trust_remote_code,
        }

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, "encode_document", self.options.prompt)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, "encode_query", self.options.query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Exact where the model's ``tokenizer.json`` is here; weights are not loaded."""
        if self._tokenizer is None:
            return super().count_tokens(texts)
        return [max(1, len(e.ids)) for e in self._tokenizer.encode_batch(list(texts))]

    def build(self, folder: Path) -> Any:
        """The sentence-transformers model in ``folder``. Angle builds it differently."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=self.options.trust_remote_code,
        )

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        try:
            import sentence_transformers as _  # noqa: F401  (its absence gets its own message)
            import torch
        except ImportError as e:
            raise MissingExtra(f"The encoder '{self.name}'", "encoders") from e

        where = model_device(self.options.device)
        model = self.source.load(self.build, f"The model '{self.options.model}'")
        limit = self.options.max_tokens
        if limit is not None:
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            most = getattr(config, "max_position_embeddings", None)
            if most and limit > most:
                raise UserError(
                    f"text_max_tokens is {limit}, but '{self.options.model}' reads at most {most} tokens.",
                    f"Set text_max_tokens to {most} or less.",
                )
            model.max_seq_length = limit
        # On a CPU bf16 is left to autocast: as fast, and closer to float32 than bf16 weights are.
        half = self.options.dtype == "bf16" and where.type != "cpu"
        return model.eval().requires_grad_(False).to(where, torch.bfloat16 if half else torch.float32), where

    def _encode(self, texts: Sequence[str], method: str, prompt: str | None) -> np.ndarray:
        model, where = self._model
        import torch

        texts = list(texts)
        parts = []
        autocast = self.options.dtype == "bf16" and where.type == "cpu"
        budget = CPU_TOKENS if where.type == "cpu" else ACCELERATOR_TOKENS
        order = list(length_batches(self.count_tokens(texts), budget))
        with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
            for rows in order:
                part = [texts[i] for i in rows]
                # The first argument's name changed between sentence-transformers 5 and 6: it stays positional.
                parts.append(getattr(model, method)(part, batch_size=len(part), prompt=prompt, show_progress_bar=False))
        if not parts:
            return np.zeros((0, model.get_sentence_embedding_dimension() or 0), dtype=np.float32)
        out = np.concatenate(parts).astype(np.float32, copy=False)
        return out[np.argsort(np.concatenate(order))]

    @cached_property
    def _tokenizer(self) -> Any:
        """The model's fast tokenizer, or ``None`` where its file is not here."""
        folder = self.source.folder()
        found = (
            [p for p in (folder / "tokenizer.json", *folder.glob("*/tokenizer.json")) if p.is_file()] if folder else []
        )
        if not found:
            return None
        try:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(found[0]))
        except Exception:  # counting is a convenience; loading the model tells what is wrong with it
            return None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        limit = self.options.max_tokens or _own_limit(found[0].parent)
        if limit:
            tokenizer.enable_truncation(limit)
        return tokenizer


def _own_limit(folder: Path) -> int | None:
    """The tokens a text after which sentence-transformers cuts, where the model's files say so."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(value, int) and 0 < value < 1 << 20:
            return value
    return None


@hookimpl
def register_encoders(register):
    register("sbert", Sbert)
