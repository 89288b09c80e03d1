"""Weights and training state on disk, without pickle: safetensors for weights, JSON for facts, and a training
state that loads with ``weights_only``. Every file is written beside its place and moved there whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from scipy import sparse

from recbole_llm.errors import UserError
from recbole_llm.files import whole_file, write_json

WEIGHTS = "model.safetensors"
OTHER = "model.other"  # what RecBole models keep outside their state dict (similarity matrices, counts)
STATE = "checkpoint.pt"


def save_weights(model: torch.nn.Module, folder: Path, facts: Mapping[str, Any]) -> None:
    """The model's parameters and buffers, and what a RecBole model keeps besides them."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    with whole_file(folder / WEIGHTS, binary=True) as f:
        f.write(serialize(tensors, metadata={k: str(v) for k, v in facts.items()}))
    other: dict[str, Any] = getattr(model, "other_parameter", dict)() or {}
    for name, value in other.items():
        if not isinstance(value, torch.nn.Module):  # a part of the model, so in its state dict already
            _save_other(folder / OTHER, name, value)


def weights_epoch(folder: Path) -> int:
    """The epoch whose weights the folder holds; -1 where there are none that can be read."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as f:
            return int(f.metadata()["epoch"])
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        return -1


def load_weights(model: torch.nn.Module, folder: Path, device: torch.device | str = "cpu") -> None:
    """The inverse of :func:`save_weights`.

    Raises:
        UserError: no or unreadable weights, or weights of another model or width.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"There are no weights in {folder}.", "The run did not finish its first validation; run it again."
        )
    try:
        tensors = load_file(path, device=str(device))
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"The weights in {path} cannot be read: {e}.", "The file is damaged; run it again.") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        raise UserError(f"The weights in {path} do not fit this model: {e}") from None
    if (folder / OTHER).is_dir():
        files = [p for p in sorted((folder / OTHER).iterdir()) if not p.name.startswith(".")]  # no half-written ones
        other = {p.name.rsplit(".", 1)[0]: _load_other(p) for p in files}
        model.load_other_parameter(other)  # type: ignore[operator]


def _save_other(folder: Path, name: str, value: Any) -> None:
    if isinstance(value, (bool, int, float, str, list, dict, type(None))):
        write_json(folder / f"{name}.json", value)
        return
    if sparse.issparse(value):
        suffix = "sparse"
    elif isinstance(value, torch.Tensor):
        suffix = "tensor"
    elif isinstance(value, np.ndarray) and value.dtype != object:
        suffix = "npy"
    else:
        raise UserError(f"The model keeps '{name}' as a {type(value).__name__}, which cannot be saved without pickle.")
    with whole_file(folder / f"{name}.{suffix}", binary=True) as f:
        if suffix == "sparse":
            sparse.save_npz(f, value.tocsr())
        elif suffix == "tensor":
            f.write(serialize({"value": value.detach().cpu().contiguous()}))
        else:
            np.save(f, value, allow_pickle=False)


def _load_other(path: Path) -> Any:
    if path.suffix == ".sparse":
        return sparse.load_npz(path)
    if path.suffix == ".tensor":
        return load_file(path)["value"]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return json.loads(path.read_text(encoding="utf-8"))


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """The training state, for ``--resume``."""
    with whole_file(folder / STATE, binary=True) as f:
        torch.save(dict(state), f)


def load_state(folder: Path) -> dict[str, Any]:
    """The training state of an interrupted run, on the CPU: random generators take their states from nowhere else,
    and modules and optimizers copy theirs to where they are.

    Raises:
        UserError: there is none, it is damaged, or it holds foreign objects (a pickle is never executed).
    """
    path = folder / STATE
    if not path.is_file():
        raise UserError(f"{folder} holds no training state to resume.", "Start the run again without --resume.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise UserError(
            f"The training state {path} cannot be read ({type(e).__name__}).",  # torch's words advise to run a pickle
            "It is damaged or was not written by recbole-llm; start the run again without --resume.",
        ) from None
