"""Batches of sessions as one row of tokens each, gathered from the tokens of a catalogue."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_llm.text.attribute_tokens import PAD, START, AttributeTokens


class TokenBatch(NamedTuple):
    """Sessions as tokens, right-padded.

    Attributes:
        ids: int64 ``[B, T]``. types: int64 ``[B, T]``, see :mod:`recbole_llm.text.attribute_tokens`.
        places: int64 ``[B, T]``, the item a token is of: 0 for the first token and padding, 1 the newest item.
        real: bool ``[B, T]``, False at padding.
    """

    ids: Tensor
    types: Tensor
    places: Tensor
    real: Tensor


class SessionTokens(nn.Module):
    """The tokens of a catalogue as buffers, so that a model rebuilt from its weights needs no tokenizer.

    A session is its first token, then its items, newest first, cut at ``most_items`` items and ``most_tokens`` tokens:
    the oldest are lost (RecFormer's tokenizer).

    Args:
        tokens: of the catalogue; ``None`` where saved ones will be loaded.
        n_items: ``V``.
        first, pad: token ids.
    """

    ids: Tensor
    types: Tensor
    offsets: Tensor
    special: Tensor

    def __init__(
        self, tokens: AttributeTokens | None, n_items: int, most_tokens: int, most_items: int, first: int, pad: int
    ):
        super().__init__()
        self.most_tokens, self.most_items = most_tokens, most_items
        if tokens is None:
            ids, types = torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.uint8)
            offsets = torch.zeros(n_items + 1, dtype=torch.int64)
        else:
            ids, types, offsets = (torch.from_numpy(x) for x in (tokens.ids, tokens.types, tokens.offsets))
        self.register_buffer("ids", ids)
        self.register_buffer("types", types)
        self.register_buffer("offsets", offsets)
        self.register_buffer("special", torch.tensor([first, pad]))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("ids", "types"):  # as many tokens as were saved
            saved = state_dict.get(prefix + name)
            if saved is not None:
                self._buffers[name] = torch.empty_like(saved, device=self.special.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def newest_first(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """int64 ``[B, K]``: the newest ``K ≤ most_items`` items of each session, 0 where there are no more."""
        steps = torch.arange(min(self.most_items, item_seq.size(1)), device=item_seq.device)
        at = lengths.unsqueeze(1) - 1 - steps
        return torch.where(at >= 0, item_seq.gather(1, at.clamp(min=0)), 0)

    def sizes(self, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """int64 ``[B]``: tokens each session is read in, the first one counted."""
        items = self.newest_first(item_seq, lengths)
        return (1 + (self.offsets[items + 1] - self.offsets[items]).sum(1)).clamp(max=self.most_tokens)

    def forward(self, item_seq: Tensor, lengths: Tensor) -> TokenBatch:
        """The tokens of sessions.

        Args:
            item_seq: int64 ``[B, L]``, right-padded with 0, oldest first. lengths: int64 ``[B]``.
        """
        items = self.newest_first(item_seq, lengths)
        count = self.offsets[items + 1] - self.offsets[items]
        ends = 1 + count.cumsum(1)  # [B, K]: the slot behind each item's last token
        total = ends[:, -1:].clamp(max=self.most_tokens)
        slot = torch.arange(int(total.max()), device=item_seq.device).expand(len(items), -1).contiguous()
        real, start = slot < total, slot == 0
        nth = torch.searchsorted(ends, slot, right=True).clamp(max=items.size(1) - 1)
        at = self.offsets[items.gather(1, nth)] + slot - (ends - count).gather(1, nth)
        said = real & ~start
        at = torch.where(said, at, 0)
        first, pad = self.special
        ids, types = self.ids, self.types
        if not len(ids):  # a catalogue without any token
            ids, types = ids.new_zeros(1), types.new_zeros(1)
        return TokenBatch(
            torch.where(said, ids[at].long(), torch.where(start, first, pad)),
            torch.where(said, types[at].long(), torch.where(start, START, PAD)),
            torch.where(said, nth + 1, 0),
            real,
        )
