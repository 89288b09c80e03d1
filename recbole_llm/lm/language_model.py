"""A pretrained language model as a frozen network: loaded by id, by folder, or from the encoder that ships it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from recbole_llm.errors import MissingExtra, UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.text.checkpoints import ModelSource, model_device, quiet_loading

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class LanguageModel:
    """What the tuning room works on.

    Attributes:
        network: transformers' model, frozen and in evaluation mode; a peft model once it has an adapter.
        tokenizer: transformers'; it always has a pad token.
        width: of its hidden states; its word vectors may be of another (ELECTRA, ALBERT).
        context: the longest input in tokens; ``None`` where the model has no limit.
        causal: whether a position sees only what stands before it.
        facts: what the run folder says of it (JSON-able): which bytes, dtype, type, parameters.
    """

    network: Any
    tokenizer: Any
    width: int
    context: int | None
    causal: bool
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def word_embeddings(self) -> nn.Embedding:
        """The table of its word embeddings, whose rows are looked up by token id."""
        return self.network.get_input_embeddings()  # type: ignore[no-any-return]

    def with_network(self, network: nn.Module, **facts: Any) -> LanguageModel:
        """The same with another network around its weights."""
        return replace(self, network=network, facts={**self.facts, **facts})


def load_language_model(
    name: str,
    revision: str | None = None,
    *,
    head: bool | Literal["masked"] = False,
    dtype: str = "float32",
    device: str | None = None,
    plugins: PluginHouse,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A pretrained model, every parameter frozen.

    Args:
        name: a Hugging Face id, a folder, or an encoder that ships a checkpoint (``minilm``).
        head: ``False`` for hidden states alone (any model), ``True`` for a causal model that also scores words.
        dtype: ``float32``, ``bf16`` or ``fp16``, of the weights.
        device: None is CUDA where there is one.

    Raises:
        MissingExtra: transformers is not installed.
        UserError: there is no such model, it cannot be fetched or read, or ``head`` is asked of one that has none.
    """
    if dtype not in DTYPES:
        raise UserError(f"lm_dtype is {dtype!r}.", f"Use one of {', '.join(DTYPES)}.")
    try:
        import transformers
    except ImportError as e:
        raise MissingExtra("A language model", "lora") from e
    source, where = source_of(name, revision, plugins), model_device(device, "lm_device")
    chosen = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    word = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"

    def build(folder: Path) -> tuple[Any, Any]:
        with quiet_loading():
            network, loaded = chosen.from_pretrained(  # type: ignore[misc]
                folder, local_files_only=True, trust_remote_code=trust_remote_code, output_loading_info=True,
                **{word: DTYPES[dtype]},
            )  # fmt: skip
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
        missing = sorted(k for k in loaded["missing_keys"] if not k.startswith("pooler."))  # a pooler is never used
        if missing:
            raise UserError(
                f"'{name}' has no weights for {missing[0]}, which would be random.",
                "Name a causal model." if head else "Name a complete checkpoint.",
            )
        return network, tokenizer

    network, tokenizer = source.load(build, f"The language model '{name}'")
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    with_pad_token(tokenizer)
    config = network.config.get_text_config()
    causal, width = _asked(_base(network) if head else network)
    if head and not causal:
        raise _cannot_write(name)
    facts = {
        **source.fingerprint(),
        "type": config.model_type,
        "dtype": dtype,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    network = network.eval().requires_grad_(False).to(where)
    return LanguageModel(network, tokenizer, width, context_of(network), causal, facts)


def source_of(name: str, revision: str | None, plugins: PluginHouse) -> ModelSource:
    """Where a model's bytes are.

    Raises:
        UserError: neither an encoder with a checkpoint, nor a folder, nor a Hugging Face id.
    """
    if plugins.registry.has("encoder", name):
        encoder = plugins.get("encoder", name)
        folder = getattr(encoder, "checkpoint_folder", None)
        if folder is None:
            raise UserError(
                f"The encoder '{name}' ships no checkpoint that could be a language model.",
                "Set lm to a Hugging Face id or a folder.",
            )
        return ModelSource.of(str(folder()), revision)
    return ModelSource.of(name, revision)


def with_pad_token(tokenizer: Any) -> None:
    """Lets the end token pad where a tokenizer (Llama's, GPT-2's) has no pad token; masks hide it anyway.

    Raises:
        UserError: the tokenizer has no special token at all.
    """
    if tokenizer.pad_token_id is not None:
        return
    found = next((t for t in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token) if t is not None), None)
    if found is None:
        raise UserError(
            "The tokenizer has no pad token and no other special token to pad with.",
            'Add one to its special_tokens_map.json: {"pad_token": "…"}.',
        )
    tokenizer.pad_token = found


def context_of(network: Any) -> int | None:
    """The longest input a network takes, in tokens; ``None`` without limit (XLNet says -1)."""
    config = network.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if most is None or most <= 0:
        return None
    padded = getattr(config, "model_type", "") in _OFFSET_POSITIONS  # their positions begin behind the pad token's
    return int(most) - (int(config.pad_token_id or 0) + 1 if padded else 0)


#: Architectures whose position table begins with ``pad_token_id + 1`` rows that no token uses.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet"}


def refuse_masked(network: Any, name: str) -> None:
    """Refuses a masked model (BERT's kind) that was loaded with a causal head, which transformers allows. One that
    cannot be asked passes.

    Raises:
        UserError: its positions see what follows them.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if network.config.get_text_config().model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return
    try:
        causal, _ = _asked(_base(network))
    except Exception:
        return
    if not causal:
        raise _cannot_write(name)


def _base(network: Any) -> Any:
    return getattr(network, network.base_model_prefix, network)


def _cannot_write(name: str) -> UserError:
    return UserError(f"'{name}' sees what follows a word, so it cannot write.", "Name a causal (chat) model.")


def _asked(network: Any) -> tuple[bool, int]:
    """Whether a position sees only what stands before it, and the width of the hidden states: asked of the network
    itself, with its own word embeddings."""
    config = network.config.get_text_config()
    try:
        rows = network.get_input_embeddings().weight.detach()
        start = rows[:4].unsqueeze(0).float()
        other = start.clone()
        other[:, -1] = rows[4].float() + 1.0
        with torch.inference_mode():
            first = network(inputs_embeds=start.to(rows.dtype)).last_hidden_state[:, 0].float()
            second = network(inputs_embeds=other.to(rows.dtype)).last_hidden_state[:, 0].float()
    except (AttributeError, TypeError, ValueError, NotImplementedError) as e:  # an encoder-decoder, for one
        raise UserError(f"The model type '{config.model_type}' gives no hidden states.", "Use a text model.") from e
    # rounding alone differs where other rows go to other experts; those that see ahead differ by hundredths
    least = 1e-4 if rows.dtype == torch.float32 else 5e-3
    return bool((second - first).norm() <= least * first.norm()), first.size(-1)
