"""The contract of :class:`recbole_llm.SessionEncoder`, as a test class for plugin authors.

.. code-block:: python

    from recbole_llm.testing.session_encoders import SessionEncoderContract

    class TestMyEncoder(SessionEncoderContract):
        encoder_cls = MyEncoder
        config = {"embedding_size": 16}

A RecBole model built in another way (a wrapper that needs ``Inputs``) overrides :meth:`build` instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.models.contracts import SessionEncoder
from recbole_llm.models.inputs import Inputs
from recbole_llm.models.session_model import TARGETS, SessionModel, session_model_for

N_ITEMS = 21  # rows, [PAD] counted
MAX_LEN = 8


class ToyDataset:
    """All that a session model asks of a dataset: how many ids a field has."""

    def __init__(self, n_items: int = N_ITEMS):
        self.n_items = n_items

    def num(self, field: str) -> int:
        return self.n_items


class ToyConfig(dict):  # type: ignore[type-arg]
    """A config with RecBole's field names; ``None`` for a key that is not set, as RecBole's own."""

    def __init__(self, **keys: Any):
        names = {
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "NEG_PREFIX": "neg_",
            "LIST_SUFFIX": "_list",
            "ITEM_LIST_LENGTH_FIELD": "item_length",
            "MAX_ITEM_LIST_LENGTH": MAX_LEN,
            "device": torch.device("cpu"),
            "loss_type": "CE",
        }
        super().__init__({**names, **keys})

    def __missing__(self, key: str) -> None:
        return None


def interaction(item_seq: Tensor, lengths: Tensor, target: Tensor) -> dict[str, Tensor]:
    """A batch under the field names of :class:`ToyConfig`."""
    return {"item_id_list": item_seq, "item_length": lengths, "item_id": target}


def planted_sessions(n: int = 64, seed: int = 0, width: int = MAX_LEN) -> dict[str, Tensor]:
    """Sessions whose next click follows from the last one: items stand on a ring, a click moves 1 or (rarely) 2 on.

    The target is always one step on, so a model that reads the last click reaches a loss near 0.
    """
    generator = torch.Generator().manual_seed(seed)
    items = N_ITEMS - 1
    lengths = torch.randint(1, width + 1, (n,), generator=generator)
    steps = 1 + (torch.rand(n, width, generator=generator) < 0.2).long()
    start = torch.randint(0, items, (n, 1), generator=generator)
    walk = (start + steps.cumsum(1)) % items + 1
    last = walk.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
    walk[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    return interaction(walk, lengths, last % items + 1)


def train_sessions(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Planted sessions as ``Inputs.train_sessions``, for encoders that read them: flat clicks, and where each session
    starts."""
    batch = planted_sessions(seed=seed)
    seq, lengths = batch["item_id_list"], batch["item_length"]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return seq[torch.arange(seq.size(1)) < lengths.unsqueeze(1)], offsets


def distinct(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch without repeated sessions."""
    seen: dict[tuple[int, ...], int] = {}
    for at, session in enumerate(batch["item_id_list"].tolist()):
        seen.setdefault(tuple(session), at)
    rows = torch.tensor(list(seen.values()))
    return {k: v[rows] for k, v in batch.items()}


class SessionEncoderContract:
    """Set :attr:`encoder_cls` and :attr:`config`, or override :meth:`build`.

    Attributes:
        tolerance: largest difference between two ways to the same score, in float32.
        steps, learning_rate: the training of the planted toy.
    """

    encoder_cls: ClassVar[type[SessionEncoder] | None] = None
    config: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 2e-5
    steps: ClassVar[int] = 60
    learning_rate: ClassVar[float] = 0.02

    def build(self) -> SessionModel:
        """A new model over :data:`N_ITEMS` rows and sessions of at most :data:`MAX_LEN`."""
        assert self.encoder_cls is not None, "set encoder_cls, or override build()"
        inputs = Inputs(train_sessions=train_sessions())
        return session_model_for(self.encoder_cls)(ToyConfig(**self.config), ToyDataset(), inputs)

    def model(self, seed: int = 0) -> SessionModel:
        torch.manual_seed(seed)
        return self.build().eval()

    def close(self, a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, atol=self.tolerance, rtol=self.tolerance)

    # -- the contract ----------------------------------------------------------------------------------------
    def test_learns_the_planted_rule(self) -> None:
        model, batch = self.model(), planted_sessions(128)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trainable, lr=self.learning_rate)
        with torch.no_grad():
            before = float(model.calculate_loss(batch))
        model.train()
        for _ in range(self.steps):
            optimiser.zero_grad()
            model.calculate_loss(batch).backward()
            optimiser.step()
        model.eval()
        with torch.no_grad():
            after = float(model.calculate_loss(batch))
            scores = model.full_sort_predict(batch)
        assert after < 0.5 * before, f"the loss only fell from {before:.3f} to {after:.3f}"
        right = (scores[:, 1:].argmax(1) + 1 == batch["item_id"]).float().mean()
        assert right > 0.8, f"only {right:.0%} of the planted targets come first"

    def test_shapes_and_finite_scores(self) -> None:
        model, batch = self.model(), planted_sessions()
        n, width = batch["item_id_list"].shape
        with torch.no_grad():
            scores = model.full_sort_predict(batch)
            state = model.encode_batch(batch)
            table = model.prepare_scoring()
        assert scores.shape == (n, N_ITEMS)
        assert torch.isfinite(scores).all()
        d = model.encoder.width
        assert table.shape == (N_ITEMS, d)
        assert state.h_final.shape == (n, d)
        assert state.h_local.size(0) == state.h_global.size(0) == n
        assert state.seq_h.shape[:2] == state.mask.shape == (n, width)
        assert (state.mask.sum(1) == batch["item_length"]).all()

    def test_scores_tell_sessions_apart(self) -> None:
        with torch.no_grad():
            scores = self.model().full_sort_predict(planted_sessions())
        assert (scores - scores[:1]).abs().amax() > 100 * self.tolerance

    def test_one_item_sessions_are_finite(self) -> None:
        model = self.model().train()
        seq = torch.zeros(5, MAX_LEN, dtype=torch.long)
        seq[:, 0] = torch.arange(1, 6)
        batch = interaction(seq, torch.ones(5, dtype=torch.long), torch.arange(2, 7))
        loss = model.calculate_loss(batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(model.full_sort_predict(batch)).all()
        for name, p in model.named_parameters():
            assert p.grad is None or torch.isfinite(p.grad).all(), name

    def test_loss_is_cross_entropy_of_the_scores(self) -> None:
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            scores = model.full_sort_predict(batch)
            expected = F.cross_entropy(scores[:, 1:], batch["item_id"] - 1) + model.encode_batch(batch).aux
            self.close(model.calculate_loss(batch), expected)

    def test_predict_equals_its_column(self) -> None:
        model, batch = self.model(), distinct(planted_sessions())
        with torch.no_grad():
            column = model.full_sort_predict(batch).gather(1, batch["item_id"].unsqueeze(1)).squeeze(1)
            self.close(model.predict(batch), column)

    def test_predict_with_repeated_sessions(self) -> None:
        model, batch = self.model(), distinct(planted_sessions(12))
        repeated = {k: v.repeat_interleave(5, 0) for k, v in batch.items()}
        n = len(repeated["item_id"])
        repeated["item_id"] = torch.randint(1, N_ITEMS, (n,), generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            scores = model.full_sort_predict(batch).repeat_interleave(5, 0)
            self.close(model.predict(repeated), scores.gather(1, repeated["item_id"].unsqueeze(1)).squeeze(1))

    def test_chunked_scores_equal_full_scores(self) -> None:
        model, batch = self.model(), planted_sessions(23)
        with torch.no_grad():
            expected = model.full_sort_predict(batch)
            for max_rows in (1, 7, 23, 100):
                seen = torch.full_like(expected, torch.nan)
                for rows, scores in model.iter_scores(batch, model.prepare_scoring(), max_rows):
                    assert scores.size(0) <= max_rows
                    seen[rows] = scores
                self.close(seen, expected)

    def test_save_and_load_keep_scores(self) -> None:
        model, batch = self.model(seed=1), planted_sessions()
        saved = copy.deepcopy(model.state_dict())
        other = self.model(seed=2)
        other.load_state_dict(saved)
        with torch.no_grad():
            self.close(other.full_sort_predict(batch), model.full_sort_predict(batch))

    def test_padding_changes_nothing(self) -> None:
        model, batch = self.model(), planted_sessions(width=MAX_LEN - 3)
        wider = {**batch, "item_id_list": F.pad(batch["item_id_list"], (0, 3))}
        with torch.no_grad():
            self.close(model.full_sort_predict(wider), model.full_sort_predict(batch))

    def test_positions_of_a_causal_encoder_are_its_prefixes(self) -> None:
        model, batch = self.model(), planted_sessions(12)
        encoder = model.encoder
        if not encoder.causal:
            return
        prefixes, lengths = [], []
        for session, n in zip(batch["item_id_list"], batch["item_length"].tolist()):
            for end in range(1, n + 1):
                prefixes.append(torch.where(torch.arange(MAX_LEN) < end, session, 0))
                lengths.append(end)
        with torch.no_grad():
            positions = model.encode_batch(batch).packed_h
            self.close(positions, encoder.encode(torch.stack(prefixes), torch.tensor(lengths)).h_final)

    def test_whole_sessions_teach_every_target(self) -> None:
        model, batch = self.model(), planted_sessions()
        encoder = model.encoder
        if not encoder.trains_on_sessions:
            return
        seq = batch["item_id_list"]
        target_seq = torch.cat([seq[:, 1:], torch.zeros_like(seq[:, :1])], dim=1)
        target_seq[torch.arange(len(seq)), batch["item_length"] - 1] = batch["item_id"]
        h, target, _ = encoder.training_pairs(seq, batch["item_length"], target_seq)
        assert h.shape == (len(target), encoder.width) and (target > 0).all()
        if encoder.causal:
            assert torch.equal(target, target_seq[target_seq > 0])
        loss = model.calculate_loss({**batch, TARGETS: target_seq})
        loss.backward()
        assert torch.isfinite(loss)

    def test_only_the_last_position_is_the_same(self) -> None:
        """``last_only`` spares work and changes no session vector."""
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            whole = model.encode_batch(batch)
            last = model.encoder.encode(batch["item_id_list"], batch["item_length"], {"last_only": True})
        for name in ("h_final", "h_local", "h_global"):
            self.close(getattr(last, name), getattr(whole, name))

    def test_other_sessions_change_nothing(self) -> None:
        model, batch = self.model(), planted_sessions()
        if model.encoder.batch_dependent:
            return
        with torch.no_grad():
            together = model.full_sort_predict(batch)
            for rows in (slice(0, 1), slice(5, 9), slice(40, None)):
                self.close(model.full_sort_predict({k: v[rows] for k, v in batch.items()}), together[rows])

    def test_pad_is_no_item(self) -> None:
        """The [PAD] row of the table may hold anything: no other item's score depends on it."""
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            before = model.full_sort_predict(batch)
            for name, p in model.named_parameters():
                if name.endswith("item_embedding.weight"):
                    p[0] += 1.0
            self.close(model.full_sort_predict(batch)[:, 1:], before[:, 1:])

    def test_gradients_reach_every_parameter(self) -> None:
        model = self.model()
        model.calculate_loss(planted_sessions(256)).backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not without, f"no gradient reaches {', '.join(without)}"

    def test_runs_under_autocast(self) -> None:
        """RecBole's ``enable_amp`` wraps the loss and the scores in it."""
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            expected = model.full_sort_predict(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.calculate_loss(batch)
            scores = torch.cat([s.float().clone() for _, s in model.iter_scores(batch, max_rows=20)])
        loss.backward()
        assert torch.isfinite(loss)
        spread = float(expected.max() - expected.min())
        assert (scores - expected).abs().max() < 0.1 * spread

    def test_evaluation_is_deterministic(self) -> None:
        model, batch = self.model(), planted_sessions()
        with torch.no_grad():
            assert torch.equal(model.full_sort_predict(batch), model.full_sort_predict(batch))

    def test_config_is_only_read(self) -> None:
        config = dict(self.config)
        self.build()
        assert dict(self.config) == config
