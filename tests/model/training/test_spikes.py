import math

import pytest
import torch

from model.training.loop import LossSpike, TrainConfig, train
from model.training.spikes import SpikeGuard


def guard_after(losses, grad_norms=None, **settings) -> SpikeGuard:
    guard = SpikeGuard(**({"deviations": 8.0, "least": 20} | settings))
    for loss, grad_norm in zip(losses, grad_norms or losses, strict=True):
        guard.remember({"loss": loss, "gradient norm": grad_norm})
    return guard


def varying(n: int, seed: int = 0) -> list[float]:
    """Numbers around 10 with a standard deviation of 0.1."""
    return (
        10 * torch.exp(0.1 * torch.randn(n, generator=torch.Generator().manual_seed(seed)))
    ).tolist()


def test_usual_steps_pass_and_a_spike_is_described():
    guard = guard_after(varying(200))
    assert all(guard({"total": x}, x) is None for x in varying(500, seed=1))
    why = guard({"total": 60.0}, 10.0)
    assert (
        why is not None
        and why.startswith("loss 60 is ")
        and "the last 200 steps (at most 8 are allowed)" in why
    )
    assert "gradient norm 70" in (guard({"total": 10.0}, 70.0) or "")
    z = float(why.split(" is ")[1].split()[0])
    assert z == pytest.approx(math.log(6) / 0.1, rel=0.3)


def test_a_spike_does_not_count_for_later_steps():
    guard = guard_after(varying(200))
    assert all(guard({"total": 100.0}, 10.0) for _ in range(300))


def test_falling_losses_and_those_far_below_are_no_spikes():
    guard = SpikeGuard(8.0)
    assert all(guard({"total": 30 * math.exp(-i / 100) + 1}, 5.0) is None for i in range(1000))
    assert guard({"total": 1e-6}, 1e-9) is None


def test_few_steps_are_not_compared():
    assert guard_after(varying(19))({"total": 1e6}, 1e6) is None
    assert guard_after(varying(20))({"total": 1e6}, 1e6) is not None


def test_a_loss_that_hardly_varies_may_rise_a_little():
    assert guard_after([5.0] * 50)({"total": 5.5}, 5.0) is None
    assert guard_after([5.0] * 50)({"total": 6.0}, 5.0) is not None


def test_a_few_high_steps_do_not_hide_a_spike():
    assert guard_after(varying(150) + [500.0] * 30)({"total": 100.0}, 10.0) is not None


def test_a_spike_stops_before_the_step_and_names_the_clips():
    class Batch:
        def __init__(self, i: int):
            self.x, self.clip_ids = (1e4 if i == 25 else 1.0), [f"clip-{i}-a", f"clip-{i}-b"]

        def to(self, device):
            return self

    net, before = torch.nn.Linear(1, 1), []

    def loss(model, batch, noise):
        if batch.x > 1:
            before.append(model.weight.detach().clone())
        return {"total": batch.x * (1 + model.weight.square().sum())}

    config = TrainConfig(steps=40, warmup_steps=1, learning_rate=1e-3)
    with pytest.raises(
        LossSpike, match=r"step 25: loss .* is .*deviations above.*clips clip-25-a, clip-25-b\."
    ):
        train(net, loss, Batch, config, guard=SpikeGuard(10.0, least=20))
    assert torch.equal(net.weight, before[0])
