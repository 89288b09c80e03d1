"""What encoders around another encoder share."""

from __future__ import annotations

from torch import Tensor, nn

from recbole_llm.models.contracts import SessionEncoder, SessionState


class WrappedEncoder(SessionEncoder):
    """An encoder made around another, the *backbone*, whose item table, score and head it has where it does not say
    otherwise. It learns from prefixes, unless it says that it is causal too.

    Args:
        backbone: any encoder.
    """

    def __init__(self, backbone: SessionEncoder):
        super().__init__(None, backbone.n_items, backbone.max_len)
        self.backbone = backbone
        self.width = backbone.width
        self.logit_scale = backbone.logit_scale
        self.normalized = backbone.normalized
        self.batch_dependent = backbone.batch_dependent
        self.uses_graph = backbone.uses_graph
        self.uses_train_sessions = backbone.uses_train_sessions

    @property
    def item_embedding(self) -> nn.Module:  # type: ignore[override]
        """The backbone's own table."""
        return self.backbone.item_embedding

    @property
    def scores_by_dot_product(self) -> bool:
        return self.backbone.scores_by_dot_product

    def read_sessions(self, items: Tensor, offsets: Tensor) -> None:
        self.backbone.read_sessions(items, offsets)

    def item_table(self) -> Tensor:
        return self.backbone.item_table()

    def item_bias(self) -> Tensor | None:
        return self.backbone.item_bias()

    def score(self, h: Tensor, table: Tensor, state: SessionState | None = None) -> Tensor:
        return self.backbone.score(h, table, state)

    def session_head(self, h: Tensor) -> Tensor:
        return self.backbone.session_head(h)

    def item_head(self, table: Tensor) -> Tensor:
        return self.backbone.item_head(table)

    def make_room(self, n: int) -> None:
        self.backbone.make_room(n)
        self.n_items = self.backbone.n_items
