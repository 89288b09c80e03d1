"""The loss of answer-only tuning: cross-entropy of the answers' tokens, with logits made for them alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

#: What a head does besides the product with its table, where a configuration says so; then the whole head is run.
_OF_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def answer_loss(network: Any, ids: Tensor, mask: Tensor, learnt: Tensor) -> tuple[Tensor, int]:
    """``(sum of the cross-entropies, number of tokens)`` of the answers of a batch.

    Args:
        network: a causal model with its head, or a peft model around one.
        ids, mask, learnt: ``[b, L]``, as :func:`~recbole_llm.lm.answer_batches.collate` gives them.
    """
    logits = answer_logits(network, ids, mask, learnt)
    wanted = ids[:, 1:][learnt[:, :-1]]
    return F.cross_entropy(logits.float(), wanted, reduction="sum"), len(wanted)


def answer_logits(network: Any, ids: Tensor, mask: Tensor, learnt: Tensor) -> Tensor:
    """``[M, vocabulary]``: the logits at the positions that ``learnt`` marks, row by row. A vocabulary has 150,000
    words and a prompt is mostly question: all logits of a batch would be the largest array of a step by far."""
    causal = network.get_base_model() if hasattr(network, "get_base_model") else network
    config, head = causal.config.get_text_config(), causal.get_output_embeddings()
    decoder = getattr(causal, causal.base_model_prefix, None)
    plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in _OF_THE_HEAD)
    if decoder is None or decoder is causal or head is None or not plain:
        return causal(input_ids=ids, attention_mask=mask, use_cache=False).logits[learnt]  # type: ignore[no-any-return]
    hidden = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return head(hidden[learnt])  # type: ignore[no-any-return]
