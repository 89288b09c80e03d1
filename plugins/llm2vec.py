"""The encoder ``llm2vec``: a decoder-only language model made bidirectional (BehnamGhader et al. 2024), SemSR's (b).

llm2vec 0.2.3 pins transformers 4.44 and cannot sit beside current ones; this is the same computation natively. The
causal mask is switched off after loading, LoRA adapters are merged in order, texts are padded on the left, and a
vector is the mean over the last hidden states of the text's own tokens, without <s> and the instruction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm import (
    Limits,
    MissingExtra,
    ModelSource,
    TextEncoder,
    UserError,
    hookimpl,
    length_batches,
    model_device,
    quiet_loading,
)

HOOK_API = 1

MAX_TOKENS = 512
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 16384
#: What llm2vec puts around a text for these models, by exact name (``prepare_for_tokenization``).
CHATS = {
    "llama3": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "mistral": ("[INST] ", " [/INST]"),
}
CHAT_OF = {
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama3",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral",
    "meta-llama/Llama-2-7b-chat-hf": "mistral",
}


@dataclass
class Options:
    model: str | None = field(
        default=None,
        metadata={"help": "A Llama-type model, or an LLM2Vec adapter (its base is loaded first): id or local folder."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the id; default: main."})
    adapters: list[str] = field(
        default_factory=list,
        metadata={"help": "LoRA adapters merged in this order (mntp, then supervised): ids (id@revision) or folders."},
    )
    prompt: str | None = field(default=None, metadata={"help": "Instruction before every item text, not pooled."})
    query_prompt: str | None = field(default=None, metadata={"help": "Instruction before every query, not pooled."})
    chat: str = field(
        default="auto",
        metadata={"choices": ("auto", "none", *CHATS), "help": "Chat frame around a text; auto: as llm2vec does."},
    )
    max_tokens: int = field(default=MAX_TOKENS, metadata={"range": (1, None), "help": "Texts are cut here."})
    dtype: str = field(default="bf16", metadata={"choices": ("float32", "bf16"), "help": "Type of the weights."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 …; default: CUDA if present."})


class LLM2Vec(TextEncoder):
    """Bidirectional attention over a causal checkpoint, proved at load; mean pooling of the text's tokens."""

    name: ClassVar[str] = "llm2vec"
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(tokens_per_text=MAX_TOKENS)

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.limits = Limits(tokens_per_text=self.options.max_tokens)  # type: ignore[misc]

    # -- which weights -----------------------------------------------------------------------------------------
    @cached_property
    def named(self) -> list[ModelSource]:
        """The model and the adapters as the user names them."""
        if not self.options.model:
            raise UserError(
                "The encoder 'llm2vec' needs the key 'text_model'.",
                "For example: --text_model=McGill-NLP/LLM2Vec-Meta-Llama-31-8B-Instruct-mntp",
            )
        pairs = [(self.options.model, self.options.revision)]
        for adapter in self.options.adapters:
            folder = Path(adapter).expanduser().is_dir()
            name, _, revision = (adapter, "", "") if folder else adapter.partition("@")
            pairs.append((name, revision or None))
        return [ModelSource.of(*pair) for pair in pairs]

    def sources(self) -> tuple[ModelSource, list[ModelSource]]:
        """``(base, adapters in merging order)``. An adapter named as the model brings its base model's name along;
        that is read from its folder, which must be here."""
        first, *adapters = self.named
        folder = first.folder()
        if folder is None or not (folder / "adapter_config.json").is_file() or any(folder.glob("model*.safetensors")):
            return first, adapters
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            base, revision = config["base_model_name_or_path"], config.get("revision")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{folder / 'adapter_config.json'} does not name its base model: {e}.") from e
        return ModelSource.of(base, revision), [first, *adapters]

    def prepare(self) -> None:
        """Fetches models that are not in the local cache."""
        for source in self.named:
            if source.folder() is None:
                source.fetch()
        base, _ = self.sources()
        if base.folder() is None:
            base.fetch()

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        base, _ = self.sources()
        first, *rest = self.named
        return {
            "provider": "llm2vec",
            **first.fingerprint(),
            "base": base.fingerprint() if base != first else None,
            "adapters": [a.fingerprint() for a in rest],
            "pooling": "mean of the text's tokens",
            "bidirectional": True,
            "max_tokens": o.max_tokens,
            "prompt": o.prompt,
            "query_prompt": o.query_prompt,
            "chat": self._chat(base),
            "dtype": o.dtype,
        }

    def _chat(self, base: ModelSource) -> str:
        return CHAT_OF.get(base.model, "none") if self.options.chat == "auto" else self.options.chat

    # -- encoding ----------------------------------------------------------------------------------------------
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, self.options.prompt)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, self.options.query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str | None) -> np.ndarray:
        model, tokenizer, where = self._model
        import torch

        ids, pooled = self._tokenize(tokenizer, texts, prompt)
        lengths = [len(i) for i in ids]
        out = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
        budget = CPU_TOKENS if where.type == "cpu" else ACCELERATOR_TOKENS
        with torch.inference_mode():
            for rows in length_batches(lengths, budget):
                hidden, _ = last_hidden(model, [ids[i] for i in rows], where)
                for row, state in zip(rows, hidden):
                    out[row] = state[-pooled[row] :].float().mean(dim=0).cpu().numpy()
        return out

    def _tokenize(self, tokenizer: Any, texts: Sequence[str], prompt: str | None) -> tuple[list[list[int]], list[int]]:
        """Token ids of each framed text, and how many at its end belong to the text (and the frame behind it)."""
        before, after = CHATS.get(self._chat(self.sources()[0]), ("", ""))
        lead = f"{prompt.strip()} " if prompt else ""
        if not texts:
            return [], []
        if before:
            texts = [t.strip() for t in texts]  # as llm2vec strips what it frames
        whole = tokenizer([f"{before}{lead}{t}{after}" for t in texts], verbose=False)["input_ids"]
        own = tokenizer([f"{t}{after}" for t in texts], add_special_tokens=False, verbose=False)["input_ids"]
        neutral = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids, pooled = [], []
        for w, o in zip(whole, own):
            ids.append(w[: self.options.max_tokens] or [neutral])
            # What stands before the text is not pooled, however the text is cut. An empty text (or one that the
            # instruction leaves no room for) is pooled over what surrounds it: a vector, always the same one.
            kept = len(ids[-1]) - max(0, len(w) - len(o))
            pooled.append(kept if kept > 0 else len(ids[-1]))
        return ids, pooled

    @cached_property
    def _model(self) -> tuple[Any, Any, Any]:
        try:
            import torch
            from transformers import AutoConfig, AutoModel, AutoTokenizer
        except ImportError as e:
            raise MissingExtra("The encoder 'llm2vec'", "encoders") from e

        where = model_device(self.options.device)
        dtype = torch.bfloat16 if self.options.dtype == "bf16" else torch.float32

        def build(folder: Path) -> tuple[Any, Any]:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            eager = {"attn_implementation": "eager"} if config.model_type == "gemma2" else {}
            with quiet_loading():
                model = AutoModel.from_pretrained(folder, config=config, local_files_only=True, **eager)
            return model.to(dtype), AutoTokenizer.from_pretrained(folder, local_files_only=True)

        self.prepare()
        base, adapters = self.sources()
        model, tokenizer = base.load(build, f"The model '{self.options.model}'")
        for adapter in adapters:
            model = adapter.load(lambda folder, m=model: merged(m, folder), f"The adapter '{adapter.model}'")
        model.config.is_causal = False
        tokenizer.padding_side = "left"
        model = model.eval().requires_grad_(False).to(where)
        check_bidirectional(model, self.options.model, where)
        return model, tokenizer, where


def merged(model: Any, folder: Path) -> Any:
    """``model`` with the LoRA adapter in ``folder`` added into its weights.

    Raises:
        UserError: the adapter was made for another model: peft would leave out what does not fit.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    except ImportError as e:
        raise MissingExtra("An adapter of the encoder 'llm2vec'", "lora") from e

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of missing keys, which are refused below
        wrapped = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    held = set(load_peft_weights(str(folder), device="cpu"))
    used = set(get_peft_model_state_dict(wrapped))
    if held != used:
        wrong = sorted(held ^ used)
        raise UserError(
            f"The adapter in {folder} does not fit the model: {len(wrong)} weights have no counterpart, such as "
            f"{wrong[0]}.",
            "Name the adapter's own base model in text_model.",
        )
    return wrapped.merge_and_unload()


def last_hidden(model: Any, ids: Sequence[Sequence[int]], where: Any) -> tuple[Any, Any]:
    """``(hidden states [n, L, D], attention mask [n, L])`` of token ids padded on the left."""
    import torch

    width = max(len(i) for i in ids)
    padded = torch.tensor([[0] * (width - len(i)) + list(i) for i in ids], device=where)
    mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=where)
    return model(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state, mask


def check_bidirectional(model: Any, name: str | None, where: Any) -> None:
    """Changes the last token of a probe: under bidirectional attention the first hidden state must move.

    Raises:
        UserError: it does not; vectors would silently be those of a causal model.
    """
    import torch

    probe = [min(5 + i, model.config.vocab_size - 1) for i in range(6)]
    changed = [*probe[:-1], probe[0]]
    with torch.inference_mode():
        # One by one and padded: both mask paths of transformers must hold.
        for lead in ([], [[*probe, *probe]]):
            one, _ = last_hidden(model, [*lead, probe], where)
            two, _ = last_hidden(model, [*lead, changed], where)
            first = -len(probe)
            if not (one[-1, first].float() - two[-1, first].float()).abs().max() > 0:
                raise UserError(
                    f"The model '{name}' ({type(model).__name__}) stays causal with this version of transformers: "
                    "its first hidden state does not see the last token.",
                    "LLM2Vec needs a Llama-, Mistral-, Qwen-, Gemma- or Phi-type model and a recent transformers.",
                )


@hookimpl
def register_encoders(register):
    register("llm2vec", LLM2Vec)
