"""Low-rank adapters (Hu et al., "LoRA", ICLR 2022) by peft: added, saved and loaded with the name of their base."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from recbole_llm import paths
from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.files import read_mapping, write_json
from recbole_llm.lm.language_model import LanguageModel
from recbole_llm.text.checkpoints import folder_digest

#: What an adapter's base was, beside peft's own files, whose field for it holds a place on one machine.
BASE = "base.json"
_IDENTITY = ("model", "revision", "content")


@dataclass(frozen=True)
class LoRA:
    """An adapter's shape.

    Attributes:
        targets: names of the linear layers that get one; ``None`` is peft's choice for the architecture (the query and
            value projections, mostly).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None


def add_lora(lm: LanguageModel, lora: LoRA) -> LanguageModel:
    """``lm`` with a fresh adapter, whose parameters are the only ones that may be trained. A fresh adapter changes
    nothing: its second factor is zero.

    Raises:
        MissingExtra: peft is not installed.
        UserError: no layer has such a name, or peft has no default for the architecture.
    """
    peft = _peft()
    layers = [f".{name}" for name, _ in lm.network.named_modules()]
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none",
        target_modules=None if lora.targets is None else list(lora.targets),
    )  # fmt: skip
    try:
        with _quiet():
            network = peft.get_peft_model(lm.network, config)
    except ValueError as e:
        raise _unfit(lm.network, str(e).splitlines()[0][:200]) from e
    # peft raises only where none of them is there; names that it knows for a mixture's experts it has put elsewhere
    left = set(lora.targets or ()) & set(network.peft_config["default"].target_modules or ())
    lost = sorted(t for t in left if not any(name.endswith(f".{t}") for name in layers))
    if lost:
        raise _unfit(lm.network, f"it has no layer '{lost[0]}'.")
    network.eval()
    return lm.with_network(network, lora=asdict(lora))


def _unfit(network: nn.Module, why: str) -> UserError:
    kinds = ("Linear", "Conv1D")  # the latter is GPT-2's
    linear = sorted({n.rsplit(".", 1)[-1] for n, m in network.named_modules() if type(m).__name__ in kinds})
    return UserError(
        f"No adapter fits {type(network).__name__}: {why}",
        f"Set lora_targets to some of its linear layers: {', '.join(linear)}.",
    )


def adapter_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter of the adapter."""
    return {name: p for name, p in network.named_parameters() if "lora_" in name}


def save_adapter(lm: LanguageModel, folder: Path) -> None:
    """Writes :data:`BASE`, then peft's ``adapter_model.safetensors`` and ``adapter_config.json``: an adapter whose base
    is not said would fit any model of its shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / BASE, {**base_of(lm.facts), "type": lm.facts["type"]})
    config = lm.network.peft_config["default"]
    config.base_model_name_or_path = None if "content" in lm.facts else lm.facts.get("model")
    config.revision = lm.facts.get("revision")
    lm.network.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card


def load_adapter(lm: LanguageModel, folder: Path, trainable: bool = False) -> LanguageModel:
    """``lm`` with the adapter of ``folder``.

    Raises:
        MissingExtra: peft is not installed.
        UserError: there is no adapter, it is for another base, or its files cannot be read.
    """
    network = attach_adapter(lm.network, folder, lm.facts, trainable)
    return lm.with_network(network, adapter={"name": folder.name, "content": folder_digest(folder)})


def attach_adapter(network: Any, folder: Path, facts: Mapping[str, Any], trainable: bool = False) -> Any:
    """``network`` under the adapter of ``folder``; ``facts`` say which bytes the network is made of.

    Raises:
        MissingExtra, UserError: as :func:`load_adapter`.
    """
    peft = _peft()
    check_base(folder, facts)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"The adapter in {folder} has no adapter_model.safetensors.", "A pickle (.bin) is not read.")
    try:
        with _quiet():
            found = peft.PeftModel.from_pretrained(network, str(folder), is_trainable=trainable)
    except Exception as e:
        raise UserError(f"The adapter in {folder} cannot be loaded: {type(e).__name__}: {str(e)[:200]}") from e
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as f:
        strange = sorted(set(f.keys()) ^ set(peft.get_peft_model_state_dict(found, save_embedding_layers=False)))
    if strange:
        raise UserError(
            f"The adapter in {folder} is for other layers than {type(network).__name__} has: {strange[0]}.",
            "Use the kind of model that it was tuned as (with or without its head).",
        )
    return found.eval()


def check_base(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuses an adapter that was made for another model. One of somebody else's, which has no :data:`BASE`, must fit
    by its shapes.

    Raises:
        UserError: there is no adapter, or it is another base's.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"There is no adapter in {folder}.", "It should hold adapter_config.json.")
    if not (folder / BASE).is_file():
        return
    theirs, ours = read_mapping(folder / BASE, "Copy the adapter again, or tune again."), base_of(facts)
    if base_of(theirs) != ours:
        raise UserError(
            f"The adapter in {folder} was made for {_said(theirs)}, and this is {_said(ours)}.",
            "Name the same model and revision, or tune again.",
        )


def placed_adapter(folder: str) -> Path:
    """A folder as named, else under the project root, where ``recbole-llm finetune`` writes."""
    path = Path(folder).expanduser()
    return path if path.is_dir() or path.is_absolute() else paths.project_root() / path


def base_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one base from another: a model id and commit, or a digest of a folder's content."""
    return {k: facts[k] for k in _IDENTITY if facts.get(k) is not None}


def _said(base: Mapping[str, Any]) -> str:
    what: Iterable[str] = (f"{k} {str(base[k])[:60]}" for k in _IDENTITY if base.get(k) not in (None, "(local)"))
    return ", ".join(what) or "an unnamed model"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' words to peft about a name that it will change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def _peft() -> Any:
    try:
        import peft
    except ImportError as e:
        raise MissingExtra("LoRA", "lora") from e
    return peft
