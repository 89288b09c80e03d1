"""A session encoder that asks a language model: its prompt holds the backbone's vectors, its last state the answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState
from recbole_llm.models.layers.hybrid_prompt import Prompts, Template, embedded
from recbole_llm.models.layers.session_graph import PackedSessions

_log = logging.getLogger(__name__)
#: What a prompt of a session holds: the session graph's vector, and its clicks'.
GRAPH, NODES = "graph", "nodes"


class PromptedBackbone(SessionEncoder):
    """``h_final = LM(E)[-1]``, scored by a linear map over all items (Guo et al., LLMGR, 2024, equations 4 to 6).

    E is the prompt with word vectors, ``f_in(x)`` where an item stands and ``f_in(z)`` where the graph stands, with one
    ``f_in`` for both: x are the rows of the backbone's item table, z is its vector of the same session. The head
    ``f_out`` is linear over all items, and nothing is generated.

    A session's clicks keep their order and their repeats. Where a prompt is longer than the language model's context,
    the oldest clicks are left out of it (z still knows them).

    Only the weights that :attr:`kept` names are saved of the language model; the others are its own, unchanged.

    Args:
        network: the language model, as ``transformers`` gives it: called with ``inputs_embeds`` and
            ``attention_mask``.
        lm_width: D, of its hidden states. context: its longest input, ``None`` without limit.
        template: of a session's prompt, with the fields :data:`NODES` and, where the backbone makes graphs,
            :data:`GRAPH`.
        trainable: the names of the language model's weights that some stage trains.
        rows: prompts that the language model reads at once where nothing is learnt.
        hidden: width of a layer (with a GELU) between the language model's state and the head; 0 for none.
    """

    #: kept out of the saved weights
    _frozen: frozenset[str]

    def __init__(
        self,
        backbone: SessionEncoder,
        network: nn.Module,
        lm_width: int,
        template: Template,
        *,
        context: int | None = None,
        trainable: Iterable[str] = (),
        rows: int = 64,
        hidden: int = 0,
    ):
        super().__init__({}, backbone.n_items, backbone.max_len)
        self.backbone = backbone
        self.network = network
        self._without_cache = {"use_cache": False} if getattr(network.config, "use_cache", None) is not None else {}
        self.width = hidden or lm_width
        self.f_in = nn.Linear(backbone.width, self.words.embedding_dim)
        self.hidden = nn.Linear(lm_width, hidden) if hidden else None
        self.f_out = nn.Linear(self.width, backbone.n_items)
        self.template, self.rows = template, rows
        self.reads_graph = GRAPH in template.parts
        self.context = context
        self.longest = (
            self.max_len if context is None else min(self.max_len, context - template.fixed - self.reads_graph)
        )
        self.shortened = 0  # sessions whose oldest clicks were left out
        trained = set(trainable)
        self._frozen = frozenset(f"network.{n}" for n in network.state_dict() if n not in trained)
        self._register_state_dict_hook(_without_frozen)
        self._register_load_state_dict_pre_hook(_with_frozen, with_module=True)  # public from torch 2.5 on

    # -- the backbone's, where others ask --------------------------------------------------------------------
    @property
    def item_embedding(self) -> nn.Module:  # type: ignore[override]
        return self.backbone.item_embedding

    @property
    def batch_dependent(self) -> bool:  # type: ignore[override]
        return self.reads_graph and self.backbone.batch_dependent

    @property
    def uses_graph(self) -> bool:  # type: ignore[override]
        return self.reads_graph and self.backbone.uses_graph

    @property
    def uses_train_sessions(self) -> bool:  # type: ignore[override]
        return self.backbone.uses_train_sessions

    def read_sessions(self, items: Tensor, offsets: Tensor) -> None:
        self.backbone.read_sessions(items, offsets)

    # -- scores ----------------------------------------------------------------------------------------------
    def item_table(self) -> Tensor:
        """``[V, width]``, the head's weights."""
        return self.f_out.weight

    def item_bias(self) -> Tensor:
        """``[V]``, the head's bias."""
        return self.f_out.bias

    @property
    def words(self) -> nn.Embedding:
        """The language model's table of word vectors."""
        found: nn.Embedding = self.network.get_input_embeddings()  # type: ignore[operator]
        return found

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, extra: Mapping[str, Any] | None = None) -> SessionState:
        """The state of a batch, in which all three vectors are the answer's. There is no vector a position."""
        table = self.backbone.item_table()
        given = {**(extra or {}), "table": table, "last_only": True}
        z = self.backbone.encode(item_seq, item_seq_len, given).h_final if self.reads_graph else None
        h = self.read(self.prompts(item_seq, item_seq_len), table, z)
        mask = torch.arange(item_seq.size(1), device=h.device) < item_seq_len.unsqueeze(1)
        return SessionState(h_local=h, h_global=h, h_final=h, mask=mask, packed_h=h[:0])

    def prompts(self, item_seq: Tensor, item_seq_len: Tensor) -> Prompts:
        """The prompts of a batch of sessions (int64 ``[B, L]``, right-padded; lengths ``[B]``)."""
        clicks = PackedSessions.pack(item_seq, item_seq_len)
        counts = item_seq_len
        if int(counts.max()) > self.longest:
            if not self.shortened:
                _log.warning(
                    "A prompt has room for %d clicks; the oldest clicks of longer sessions are left out.", self.longest
                )
            self.shortened += int((counts > self.longest).sum())
            from_end = counts.index_select(0, clicks.rows) - clicks.positions
            keep = from_end <= self.longest
            counts = counts.clamp(max=self.longest)
            items = clicks.items[keep]
        else:
            items = clicks.items
        width = int(counts.max())
        real = torch.arange(width, device=item_seq.device) < counts.unsqueeze(1)
        vocabulary = self.words.num_embeddings
        nodes = item_seq.new_zeros(real.shape).masked_scatter(real, items + vocabulary)
        values = {NODES: (nodes, counts)}
        if self.reads_graph:
            graph = torch.full_like(item_seq[:, :1], vocabulary + self.n_items)
            values[GRAPH] = (graph, torch.ones_like(counts))
        return self.template.fill(values)

    def read(self, prompts: Prompts, table: Tensor, graph: Tensor | None = None) -> Tensor:
        """``[B, width]``: what the head is given of each prompt, which is read once: the language model's state at its
        last code, or the hidden layer over it.

        Args:
            table: ``[V, d]``, the backbone's. graph: ``[B, d]``, its vectors of the sessions.
        """
        n = len(prompts.lengths)
        if torch.is_grad_enabled() or n <= self.rows:
            return self._read(prompts.rows(slice(None)), table, graph)
        out = table.new_empty(n, self.width)
        for some in prompts.lengths.argsort().split(self.rows):  # of like lengths, so that little is padding
            out[some] = self._read(prompts.rows(some), table, None if graph is None else graph[some])
        return out

    def _read(self, prompts: Prompts, table: Tensor, graph: Tensor | None) -> Tensor:
        vectors = embedded(prompts.codes, self.words, table, graph, self.n_items, self.f_in)
        found = self.network(inputs_embeds=vectors, attention_mask=prompts.mask.to(torch.int64), **self._without_cache)
        at = torch.arange(len(prompts.lengths), device=prompts.codes.device)
        last: Tensor = found.last_hidden_state[at, prompts.lengths - 1].to(self.f_out.weight.dtype)
        return last if self.hidden is None else nn.functional.gelu(self.hidden(last))


def _without_frozen(module: PromptedBackbone, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in module._frozen:
        state.pop(prefix + name, None)


def _with_frozen(module: PromptedBackbone, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """What was not saved is as it is."""
    own = module.network.state_dict()
    for name in module._frozen:
        state.setdefault(prefix + name, own[name.removeprefix("network.")])
