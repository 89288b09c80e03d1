"""Learning-rate schedules against torch's, averaged weights against their definition, fused Adam against plain."""

from __future__ import annotations

import copy

import pytest
import torch

from recbole_llm.bridge.optimization import InParts, Pace, WeightAverage, fused
from recbole_llm.models.session_model import TARGETS


def problem(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Linear(5, 3), torch.randn(16, 5), torch.randn(16, 3)


def step(model, x, y, optimizer):
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_steps_are_adams(kind):
    model, x, y = problem()
    other = copy.deepcopy(model)
    plain = kind(model.parameters(), lr=0.05, weight_decay=0.01)
    quick = fused(kind(other.parameters(), lr=0.05, weight_decay=0.01))
    assert quick.defaults["fused"] and type(quick) is kind
    for _ in range(20):
        step(model, x, y, plain)
        step(other, x, y, quick)
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_torch_that_has_no_fused_steps_here_takes_plain_ones(monkeypatch):
    """torch 2.2 and 2.3 refuse them on the CPU, when the optimiser is made."""
    plain = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    made = torch.optim.Adam.__init__

    def refuse(self, params, *args, fused=None, **kwargs):
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be floating point Tensors of supported devices")
        made(self, params, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "__init__", refuse)
    assert fused(plain) is plain


def test_other_optimisers_stay_as_they_are():
    model, *_ = problem()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert fused(sgd) is sgd


def test_decay_is_torchs_step_lr_stepped_after_each_epoch():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    pace = Pace({"warmup_steps": 0, "lr_decay_epochs": 3, "lr_decay": 0.1}, optimizer)
    twin = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.StepLR(twin, 3, 0.1)
    for epoch in range(8):
        pace.epoch = epoch
        for _ in range(2):
            step(model, x, y, optimizer)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(twin.param_groups[0]["lr"])
        twin.step()
        schedule.step()


def test_warm_up_rises_to_the_full_rate():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Pace({"warmup_steps": 4, "lr_decay_epochs": 0, "lr_decay": None}, optimizer)
    seen = []
    for _ in range(6):
        step(model, x, y, optimizer)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(("kind", "end"), [("cosine", "get_cosine"), ("linear", "get_linear")])
def test_a_schedule_over_the_planned_steps_is_transformers(kind, end):
    import transformers

    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    pace = Pace({"warmup_steps": 0, "lr_schedule": kind, "lr_decay_epochs": 0, "lr_decay": None}, optimizer)
    pace.plan(12)
    twin = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = getattr(transformers, f"{end}_schedule_with_warmup")(twin, 0, 12)
    for _ in range(12):
        step(model, x, y, optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(twin.param_groups[0]["lr"])
        twin.step()
        schedule.step()


@pytest.mark.parametrize("parts", [2, 3, 16, 40])
def test_a_batch_in_parts_has_the_gradients_and_the_loss_of_the_whole(parts):
    model, x, y = problem()
    other = copy.deepcopy(model)

    class Rows(dict):
        def __len__(self):
            return len(self["x"])

        def __getitem__(self, key):
            return Rows({k: v[key] for k, v in self.items()}) if isinstance(key, slice) else dict.__getitem__(self, key)

    def loss_of(of):
        def loss(batch):
            found = (of(batch["x"]) - batch["y"]).square().mean(1)
            taught = batch[TARGETS].sum(1) if TARGETS in batch else torch.ones(len(batch))
            return (found * taught).sum() / taught.sum()

        return loss

    whole, targets = Rows(x=x, y=y), (torch.arange(16 * 3).view(16, 3) % 5 == 0).long() + 0
    targets[:, 0] = 1
    for batch in (whole, Rows(x=x, y=y, **{TARGETS: targets})):
        model.zero_grad(), other.zero_grad()
        plain, split = loss_of(model)(batch), InParts(loss_of(other), parts)(batch)
        plain.backward(), split.backward()
        torch.testing.assert_close(split, plain)
        for a, b in zip(model.parameters(), other.parameters()):
            torch.testing.assert_close(b.grad, a.grad)


def test_the_average_follows_its_definition_and_gives_the_weights_back():
    model, x, y = problem()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    average = WeightAverage(model, optimizer, 0.5)
    expected = [p.detach().clone() for p in model.parameters()]
    for t in range(1, 8):
        step(model, x, y, optimizer)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, model.parameters())]
    own = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="inside"), average.in_place():
        for p, e in zip(model.parameters(), expected):
            torch.testing.assert_close(p.detach(), e)
        raise RuntimeError("inside")
    assert all(torch.equal(p, o) for p, o in zip(model.parameters(), own))


def test_a_resumed_average_goes_on_as_if_nothing_had_happened():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    average = WeightAverage(model, optimizer, 0.9)
    for _ in range(3):
        step(model, x, y, optimizer)
    saved = copy.deepcopy(average.state_dict())
    again = copy.deepcopy(model)
    optimizer_again = torch.optim.SGD(again.parameters(), lr=0.05)
    resumed = WeightAverage(again, optimizer_again, 0.9)
    resumed.load_state_dict(saved)
    for _ in range(3):
        step(model, x, y, optimizer)
        step(again, x, y, optimizer_again)
    for name in average.average:
        assert torch.equal(average.average[name], resumed.average[name])
