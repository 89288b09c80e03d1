"""The generator ``hf_local``: a causal chat model of transformers on this machine, for up to thousands of prompts.

Prompts are framed by the tokenizer's chat template, padded on the left and answered in batches. At temperature 0 the
likeliest token is taken; otherwise each request draws from random numbers of its own, so that an answer does not depend
on what else was in its batch (in float32; bfloat16 rounds a padded prompt differently). For a whole catalogue, serve
the model with vLLM and use the generator ``openai``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm import (
    Answer,
    Failure,
    Limits,
    MissingExtra,
    ModelSource,
    Request,
    TextGenerator,
    UserError,
    folder_digest,
    hookimpl,
    model_device,
    prompt_ids,
    quiet_loading,
    request_digest,
)
from recbole_llm_plugins._draw import Draw

HOOK_API = 1

#: The longest answer where a request does not say.
MAX_TOKENS = 512


@dataclass
class Options:
    model: str | None = field(
        default=None, metadata={"help": "A causal chat model: Hugging Face id (Qwen/Qwen2.5-7B-Instruct) or folder."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the id; default: main."})
    adapter: str | None = field(
        default=None, metadata={"help": "A LoRA adapter's folder, of peft's form (`recbole-llm finetune` writes one)."}
    )
    dtype: str = field(
        default="auto",
        metadata={"choices": ("auto", "bf16", "fp16", "float32"), "help": "Type of the weights; auto: as published."},
    )
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 …; default: CUDA if present."})
    batch_size: int = field(default=16, metadata={"range": (1, None), "help": "Prompts answered together."})
    max_input_tokens: int | None = field(
        default=None,
        metadata={"range": (1, None), "help": "Longer prompts fail; default: what the model reads, less the answer."},
    )
    template_args: dict = field(
        default_factory=dict,
        metadata={"help": "Arguments of the chat template, such as {'enable_thinking': False}."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})


class HFLocal(TextGenerator):
    """``AutoModelForCausalLM`` with its chat template."""

    name: ClassVar[str] = "hf_local"
    Options: ClassVar[type] = Options
    limits: ClassVar[Limits] = Limits(texts=16)

    def __init__(self, options: Any = None):
        super().__init__(options)
        self.limits = Limits(texts=self.options.batch_size)  # type: ignore[misc]

    # -- which model ---------------------------------------------------------------------------------------------
    @cached_property
    def source(self) -> ModelSource:
        if not self.options.model:
            raise UserError(
                "The generator 'hf_local' needs the key 'gen_model'.",
                "For example: --gen_model=Qwen/Qwen2.5-1.5B-Instruct",
            )
        return ModelSource.of(self.options.model, self.options.revision)

    def prepare(self) -> None:
        """Fetches a model that is not in the local cache."""
        if self.source.folder() is None:
            self.source.fetch()

    def fingerprint(self) -> dict[str, Any]:
        o = self.options
        if self._adapter is not None and not (self._adapter / "adapter_config.json").is_file():
            raise UserError(f"There is no adapter in {o.adapter}.", "gen_adapter is the folder of adapter_config.json.")
        return {
            "provider": "hf_local",
            "version": 1,
            **self.source.fingerprint(),
            **({"adapter": folder_digest(self._adapter)} if self._adapter is not None else {}),
            "dtype": o.dtype,
            "max_input_tokens": o.max_input_tokens,
            "template_args": o.template_args,
            "trust_remote_code": o.trust_remote_code,
        }

    @cached_property
    def _adapter(self) -> Path | None:
        from recbole_llm import placed_adapter

        return placed_adapter(self.options.adapter) if self.options.adapter else None

    # -- prompts -------------------------------------------------------------------------------------------------
    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as e:
            raise MissingExtra("The generator 'hf_local'", "encoders") from e

        def build(folder: Path) -> Any:
            trust = self.options.trust_remote_code
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)

        return self.source.load(build, f"The tokenizer of '{self.options.model}'")

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Exact, with the chat frame; loads the tokenizer only."""
        return [len(self._ids(r.messages)) for r in requests]

    def _ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return prompt_ids(self._tokenizer, messages, self.options.template_args, f"'{self.options.model}'")

    # -- answers -------------------------------------------------------------------------------------------------
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer | Failure]]:
        """Requests decoded alike in one batch (the house sends at most ``batch_size``), as batches are done.

        Raises:
            UserError: the model cannot be loaded, or one prompt alone needs more memory than there is.
        """
        batches: dict[Any, list[tuple[int, list[int]]]] = {}
        for i, request in enumerate(requests):
            ids = self._ids(request.messages)
            how = self._how(request)
            if len(ids) > self._room(how[0]):
                room = max(0, self._room(how[0]))
                left = f"more than the {room} that an answer of {how[0]} (gen_max_tokens) leaves"
                yield i, Failure(f"the prompt has {len(ids)} tokens, {left}")
            else:
                batches.setdefault(how, []).append((i, ids))
        for how, batch in batches.items():
            for start in range(0, len(batch), self.options.batch_size):
                part = batch[start : start + self.options.batch_size]
                yield from self._answer(part, how, requests)

    def _how(self, request: Request) -> tuple[int, float, float, int]:
        """``(longest answer, temperature, top_p, top_k)``; the model's own way where no temperature is said."""
        params, own = request.drawn(), self._model[0].generation_config
        longest = int(params.get("max_tokens") or MAX_TOKENS)
        if "temperature" in params:
            top = float(params.get("top_p", 1.0)), int(params.get("top_k", 0))
            return (longest, float(params["temperature"]), *top)
        if not own.do_sample:
            return longest, 0.0, 1.0, 0
        return longest, float(_first(own.temperature, 1.0)), float(_first(own.top_p, 1.0)), int(_first(own.top_k, 0))

    def _room(self, longest: int) -> int:
        """Tokens that a prompt may have."""
        most = getattr(self._model[0].config.get_text_config(), "max_position_embeddings", None)
        room = [most - longest] if most and most > 0 else []
        return min([*room, *([self.options.max_input_tokens] if self.options.max_input_tokens else []), 1 << 30])

    def _answer(
        self, batch: list[tuple[int, list[int]]], how: tuple[int, float, float, int], requests: Sequence[Request]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        import torch

        try:
            said = self._decode([ids for _, ids in batch], how, [requests[i] for i, _ in batch])
        except torch.cuda.OutOfMemoryError as e:
            if len(batch) == 1:
                raise UserError(
                    "The GPU's memory does not hold the model and one prompt.", "Set gen_max_tokens lower."
                ) from e
            said = None
        if said is None:  # outside of the handler, which would hold on to what did not fit
            torch.cuda.empty_cache()
            half = len(batch) // 2
            yield from self._answer(batch[:half], how, requests)
            yield from self._answer(batch[half:], how, requests)
            return
        ends = self._ends
        for (i, ids), row in zip(batch, said):
            stop = next((n for n, t in enumerate(row) if t in ends), None)
            text = self._tokenizer.decode(row[:stop], skip_special_tokens=True).strip()
            if not text:
                yield i, Failure("the model said nothing")
                continue
            spent = len(row) if stop is None else stop + 1
            yield i, Answer(text, len(ids), spent, "length" if stop is None else "stop")

    def _decode(
        self, prompts: list[list[int]], how: tuple[int, float, float, int], requests: list[Request]
    ) -> list[list[int]]:
        """Token ids of each answer, with what follows its end."""
        import torch

        from recbole_llm import generate_tokens, pad_token

        longest, temperature, top_p, top_k = how
        draws = []
        if temperature > 0:
            dice = [np.random.default_rng(int(request_digest(r), 16)).random(longest) for r in requests]
            draws = [Draw(torch.tensor(np.stack(dice)), max(map(len, prompts)), temperature, top_p, top_k)]
        pad = pad_token(self._tokenizer, self._ends)
        return generate_tokens(self._model[0], prompts, longest, self._ends, pad, draws)

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end an answer."""
        from recbole_llm import end_tokens

        return end_tokens(self._model[0], self._tokenizer)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        try:
            import torch
            import transformers
        except ImportError as e:
            raise MissingExtra("The generator 'hf_local'", "encoders") from e

        where, o = model_device(self.options.device, "gen_device"), self.options
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}.get(o.dtype, "auto")
        word = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"

        def build(folder: Path) -> Any:
            with quiet_loading():
                model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=o.trust_remote_code,
                    output_loading_info=True,
                    **{word: dtype},
                )
            if loaded["missing_keys"]:
                raise UserError(
                    f"'{o.model}' is no language model: it has no weights for {min(loaded['missing_keys'])}, which "
                    "would be random.",
                    "Name a causal (chat) model in gen_model.",
                )
            return model

        from recbole_llm import attach_adapter, refuse_masked

        model = self.source.load(build, f"The model '{o.model}'").eval()
        refuse_masked(model, str(o.model))
        if self._adapter is not None:
            model = attach_adapter(model, self._adapter, self.source.fingerprint())
        return model.eval().requires_grad_(False).to(where), where


def _first(*values: Any) -> Any:
    """The first that is not ``None``."""
    return next((v for v in values if v is not None), None)


@hookimpl
def register_generators(register):
    register("hf_local", HFLocal)
