"""Tiny random language models, written as ``save_pretrained`` writes real ones, for tests of the real loading path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: A chat template with a frame of its own, so that a test sees whether the template was used.
CHAT = (
    "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant : {% endif %}"
)


def tiny_llama(
    folder: Path, texts: Iterable[str], hidden: int = 32, layers: int = 2, context: int = 512, seed: int = 0,
    chat: bool = True, heads: int = 4,
) -> Path:  # fmt: skip
    """A random causal Llama that knows the words of ``texts`` (and the digits), one token a word; its tokenizer puts
    ``<s>`` first and has no pad token, as Llama's."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = list(dict.fromkeys(["<unk>", "<s>", "</s>", *_words(texts), "system", "user", "assistant"]))
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if chat:
        tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2), intermediate_size=hidden * 2, max_position_embeddings=context,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _written(LlamaForCausalLM, config, tokenizer, folder, seed, torch)


def tiny_bert(
    folder: Path, texts: Iterable[str], hidden: int = 32, layers: int = 2, context: int = 128, seed: int = 0
) -> Path:
    """A random BERT with one token a word of ``texts``, framed by ``[CLS]`` and ``[SEP]``."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocab = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_words(t.lower() for t in texts)]))
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{k}_token": f"[{k.upper()}]" for k in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=context, **special)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=hidden * 2, max_position_embeddings=context,
    )  # fmt: skip
    return _written(BertModel, config, tokenizer, folder, seed, torch)


def _words(texts: Iterable[str]) -> list[str]:
    found = [w for text in texts for w in re.findall(r"\w+|[^\w\s]", text)]
    return list(dict.fromkeys([*found, *"0123456789", ",", ".", ":", ";", "?", "(", ")", "[", "]"]))


def _written(cls: Any, config: Any, tokenizer: Any, folder: Path, seed: int, torch: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cls(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
