"""Equality of a :class:`~recbole_llm.models.session_encoders.recbole_network.RecBoleNetwork` with RecBole's own
network, live, as a test class.

.. code-block:: python

    class TestSASRecParity(RecBoleParity):
        encoder_cls = SASRec
        recbole_cls = recbole.model.sequential_recommender.SASRec
        config = {"hidden_size": 16}

Every parameter is drawn anew at unit scale first: at RecBole's initial values (0.02) most networks are close to linear
and much that is wrong would not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_llm.models.session_encoders.recbole_network import RecBoleNetwork, network_defaults
from recbole_llm.models.session_model import SessionModel, session_model_for
from recbole_llm.testing.session_encoders import MAX_LEN, N_ITEMS, ToyConfig, ToyDataset, interaction


def sessions_of(lengths: Tensor, seed: int = 0, width: int = MAX_LEN) -> dict[str, Tensor]:
    """Random sessions of these lengths (``[B]``); few items, so that clicks repeat."""
    generator = torch.Generator().manual_seed(seed)
    seq = torch.randint(1, N_ITEMS, (len(lengths), width), generator=generator)
    seq[:, 1::3] = seq[:, :1]  # returns to the first item
    seq[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    target = torch.randint(1, N_ITEMS, (len(lengths),), generator=generator)
    return interaction(seq, lengths, target)


def assert_near(got: Tensor, want: Tensor, relative: float, what: str = "") -> None:
    """Largest difference at most ``relative`` times the largest value."""
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    difference = (got - want).abs().max().item()
    scale = max(want.abs().max().item(), 1e-6)
    assert difference <= relative * scale, f"{what} differs by {difference:.3g} at a scale of {scale:.3g}"


def with_exact_graphs(network: type) -> type:
    """A RecBole graph network that runs in float64: its adjacency is float32 whatever its parameters are. Weights are
    one over a degree, so the exact ones can be told from the rounded."""

    class Exact(network):  # type: ignore[misc, valid-type]
        def _get_slice(self, item_seq: Tensor) -> tuple[Tensor, ...]:
            alias, adjacency, *rest = super()._get_slice(item_seq)
            dtype = self.item_embedding.weight.dtype
            degree = (1 / adjacency).round().to(dtype)  # no edge: one over infinity
            return alias, 1 / degree, *rest

    Exact.__name__ = network.__name__
    return Exact


class RecBoleParity:
    """Set the three attributes; a network whose RecBole calls need another dataset overrides :meth:`theirs`.

    Attributes:
        relative: the largest difference over the largest value, by type.
    """

    encoder_cls: ClassVar[type[RecBoleNetwork]]
    recbole_cls: ClassVar[type]
    config: ClassVar[Mapping[str, Any]] = {}
    relative: ClassVar[Mapping[torch.dtype, float]] = {torch.float32: 1e-4, torch.float64: 1e-9}

    def settings(self, **keys: Any) -> ToyConfig:
        """RecBole's defaults of the network under the test's own."""
        return ToyConfig(**{**network_defaults(self.recbole_cls.__name__), **self.config, **keys})

    def theirs(self, **keys: Any) -> Any:
        return self.recbole_cls(self.settings(**keys), ToyDataset())

    def ours(self, **keys: Any) -> SessionModel:
        return session_model_for(self.encoder_cls)(self.settings(loss_include_pad=True, **keys), ToyDataset())

    def their_final(self, theirs: Any, item_seq: Tensor, lengths: Tensor) -> Tensor:
        """``[B, d]``: what RecBole's network scores with."""
        return theirs.forward(item_seq, lengths)

    def pair(self, dtype: torch.dtype = torch.float64, **keys: Any) -> tuple[SessionModel, Any]:
        """Both models with equal parameters of unit scale, in evaluation mode."""
        theirs, ours = self.theirs(**keys).to(dtype).eval(), self.ours(**keys).to(dtype).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for p in theirs.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return ours, theirs

    def batches(self) -> dict[str, dict[str, Tensor]]:
        """One batch of every length, and one of all mixed."""
        found = {f"length {n}": sessions_of(torch.full((5,), n), seed=n) for n in range(1, MAX_LEN + 1)}
        mixed = torch.randint(1, MAX_LEN + 1, (64,), generator=torch.Generator().manual_seed(1))
        return {**found, "mixed lengths": sessions_of(mixed)}

    # -- the tests -------------------------------------------------------------------------------------------
    def test_starts_with_the_same_parameters(self) -> None:
        torch.manual_seed(3)
        theirs = self.theirs().state_dict()
        torch.manual_seed(3)
        ours = self.ours().state_dict()
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name

    def test_state_dict_goes_back_to_recbole(self) -> None:
        ours, theirs = self.ours(), self.theirs()
        theirs.load_state_dict(ours.state_dict(), strict=True)

    def test_defaults_are_recboles(self) -> None:
        """Without a config: RecBole's default widths, names and numbers of layers."""
        bare = self.encoder_cls({}, N_ITEMS, MAX_LEN)
        full = self.recbole_cls(ToyConfig(**network_defaults(self.recbole_cls.__name__)), ToyDataset())
        assert {k: v.shape for k, v in bare.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}

    def test_scores_equal_recboles(self) -> None:
        for dtype, relative in self.relative.items():
            ours, theirs = self.pair(dtype)
            with torch.no_grad():
                for name, batch in self.batches().items():
                    what = f"{name}, {dtype}"
                    assert_near(ours.full_sort_predict(batch), theirs.full_sort_predict(batch), relative, what)
                    assert_near(ours.predict(batch), theirs.predict(batch), relative, what)

    def test_loss_and_gradients_equal_recboles(self) -> None:
        for dtype, relative in self.relative.items():
            ours, theirs = self.pair(dtype)
            for name, batch in self.batches().items():
                ours.zero_grad()
                theirs.zero_grad()
                mine, want = ours.calculate_loss(batch), theirs.calculate_loss(batch)
                assert_near(mine.squeeze(), want.squeeze(), relative, f"loss, {name}, {dtype}")
                mine.sum().backward()
                want.sum().backward()
                got = dict(ours.encoder.named_parameters())
                scale = max(float(p.grad.abs().max()) for p in theirs.parameters() if p.grad is not None)
                for key, p in theirs.named_parameters():
                    what = f"gradient of {key}, {name}, {dtype}"
                    grad = got[key].grad
                    if p.grad is None or grad is None:
                        assert not _moves(p) and not _moves(got[key]), what
                    elif p.grad.abs().max() < 1e-3 * scale:  # some are nothing but rounding: a key's bias
                        assert (grad - p.grad).abs().max() <= relative * scale, what
                    else:
                        assert_near(grad, p.grad, relative, what)

    def test_last_positions_alone_change_nothing(self) -> None:
        """``last_only`` skips work, in the states and their gradients alike."""
        ours, _ = self.pair()
        batch = self.batches()["mixed lengths"]
        got = []
        for hint in ({}, {"last_only": True}):
            ours.zero_grad()
            state = ours.encoder.encode(batch["item_id_list"], batch["item_length"], hint)
            state.h_final.pow(2).sum().backward()
            grads = {k: p.grad.clone() for k, p in ours.encoder.named_parameters() if p.grad is not None}
            got.append((state, grads))
        (full, full_grads), (last, last_grads) = got
        for field in ("h_final", "h_local", "h_global"):
            assert_near(getattr(last, field), getattr(full, field), 1e-9, field)
        assert full_grads.keys() == last_grads.keys()
        scale = max(float(grad.abs().max()) for grad in full_grads.values())
        for key, grad in full_grads.items():
            assert (last_grads[key] - grad).abs().max() <= 1e-12 * scale + 1e-9 * grad.abs().max(), key

    def test_every_position_equals_recboles_prefix(self) -> None:
        """Of a causal network: ``packed_h`` is what RecBole's network says of the prefix that ends there."""
        ours, theirs = self.pair()
        if not ours.encoder.causal:
            return
        batch = self.batches()["mixed lengths"]
        seq, lengths = batch["item_id_list"], batch["item_length"]
        with torch.no_grad():
            state = ours.encoder.encode(seq, lengths)
            for n in range(1, MAX_LEN + 1):
                long = lengths >= n
                prefix = seq[long].clone()
                prefix[:, n:] = 0
                want = self.their_final(theirs, prefix, torch.full((int(long.sum()),), n))
                assert_near(state.seq_h[long, n - 1], want, 1e-9, f"position {n}")

    def test_dropout_is_recboles(self) -> None:
        """Over many draws, states under dropout have the mean and spread of RecBole's, so no dropout is missing and
        none has another rate."""
        n, rates = 4000, {k: 0.3 for k in self.settings() if k.endswith("dropout_prob")}
        if not rates:
            return
        ours, theirs = self.pair(torch.float32, **rates)
        batch = {k: v[:1].repeat_interleave(n, 0) for k, v in sessions_of(torch.tensor([5])).items()}
        seq, lengths = batch["item_id_list"], batch["item_length"]
        torch.manual_seed(5)
        with torch.no_grad():
            for p in theirs.parameters():  # at unit scale, attention looks at one click only
                p.mul_(0.5)
            ours.load_state_dict(theirs.state_dict())
            encoder = ours.train().encoder
            want = self.their_final(theirs.train(), seq, lengths)
            for hint in ({}, {"last_only": True}):
                got = encoder.encode(seq, lengths, hint).h_final
                error = (got.mean(0) - want.mean(0)).abs() / (want.std(0) * (2 / n) ** 0.5)
                assert error.max() < 5, f"the mean is {error.max():.1f} standard errors off, {hint}"
                ratio = got.std(0) / want.std(0)
                assert ratio.min() > 0.9, f"the spread is {ratio.min():.2f} of theirs, {hint}"
                assert ratio.max() < 1.1, f"the spread is {ratio.max():.2f} of theirs, {hint}"


def _moves(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())
