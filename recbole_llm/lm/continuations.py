"""How likely a causal model finds texts as the answer to a prompt; the prompt is read once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch

from recbole_llm.errors import UserError
from recbole_llm.text.checkpoints import length_batches


class Continuations:
    """Answers that are scored again and again: the titles of a catalogue, or of a few candidates.

    Args:
        ids: token ids of each answer, with the token that ends it; at least one.
        tokens: padded tokens of a forward, prompt not counted.
    """

    def __init__(self, ids: Sequence[Sequence[int]], tokens: int = 1024):
        self.lengths = np.array([len(i) for i in ids], np.int64)
        if len(ids) and self.lengths.min() < 1:
            raise ValueError("an answer has at least one token")
        self.ids = [np.asarray(i, np.int64) for i in ids]
        self._batches = list(length_batches(self.lengths.tolist(), tokens)) if len(ids) else []

    def __len__(self) -> int:
        return len(self.ids)

    @torch.inference_mode()
    def logliks(self, network: Any, prompt: Sequence[int], pad: int = 0) -> np.ndarray:
        """float32 ``[n]``: ``log p(answer | prompt)`` of each, summed over its tokens.

        Args:
            network: a causal model with its head, in evaluation mode.
            prompt: token ids, at least one.

        Raises:
            UserError: the model keeps no keys and values of what it read (Mamba, RWKV).
        """
        device = next(network.parameters()).device
        last = {"logits_to_keep": 1} if "logits_to_keep" in signature(network.forward).parameters else {}
        read = network(torch.tensor([list(prompt)], device=device), use_cache=True, **last)
        if getattr(read, "past_key_values", None) is None:
            raise UserError(
                f"The model type '{network.config.model_type}' keeps no keys and values of a prompt that it read.",
                "Use a transformer (Llama, Qwen, GPT-2 …).",
            )
        first = torch.log_softmax(read.logits[0, -1].float(), dim=-1)
        out = np.empty(len(self.ids), np.float32)
        for rows in self._batches:
            out[rows] = self._batch(network, rows, read.past_key_values, first, len(prompt), pad)
        return out

    def _batch(self, network: Any, rows: np.ndarray, past: Any, first: torch.Tensor, read: int, pad: int) -> np.ndarray:
        device, longest = first.device, int(self.lengths[rows].max())
        ids = np.full((len(rows), longest), pad, np.int64)
        real = np.zeros((len(rows), longest), bool)
        for r, i in enumerate(rows):
            ids[r, : self.lengths[i]], real[r, : self.lengths[i]] = self.ids[i], True
        given, counted = torch.from_numpy(ids).to(device), torch.from_numpy(real).to(device)
        total = first[given[:, 0]]
        if longest > 1:
            cache = copy.deepcopy(past)
            cache.batch_repeat_interleave(len(rows))
            seen = torch.ones(len(rows), read, dtype=torch.int64, device=device)
            mask = torch.cat([seen, counted[:, :-1].long()], dim=1)
            at = torch.arange(read, read + longest - 1, device=device).expand(len(rows), -1)
            logits = network(
                given[:, :-1], attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
            ).logits
            said = logits.gather(2, given[:, 1:, None]).squeeze(2).float()
            # in float32, a row at a time: a vocabulary is wide, and half precision would make near titles equal
            wanted = said - torch.stack([torch.logsumexp(row.float(), dim=-1) for row in logits])
            total = total + (wanted * counted[:, 1:]).sum(1)
        return total.cpu().numpy()
