import itertools
import math
import os
import subprocess
import sys
import textwrap
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from repository import ROOT
from torch import Tensor, nn

from model.training.device import step_generator
from model.training.loop import (
    Discriminator,
    NonFiniteLoss,
    StepReport,
    TrainConfig,
    TrainState,
    learning_rate_at,
    train,
)
from model.training.snapshots import Snapshot, Snapshots

CONFIG = TrainConfig(
    steps=12, learning_rate=0.05, warmup_steps=3, ema=0.9, weight_decay=0.1, seed=7
)


@dataclass
class Points:
    x: Tensor
    y: Tensor
    clip_ids: list[str]

    def to(self, device):
        return Points(self.x.to(device), self.y.to(device), self.clip_ids)


def batch_at(i: int) -> Points:
    g = torch.Generator().manual_seed(i)
    x = torch.randn(4, 3, generator=g)
    return Points(x, x[:, :1] - x[:, 1:2], [f"clip-{i}-{j}" for j in range(4)])


def make_net(seed: int = 0) -> nn.Module:
    """A network with dropout, which draws from torch's global generator, and running statistics."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)
    )


def noisy_loss(model, batch, generator):
    x = batch.x + 0.1 * torch.randn(batch.x.shape, generator=generator)
    error = F.mse_loss(model(x), batch.y)
    return {"total": 2 * error, "error": error}


def run(config=CONFIG, state=None, stop_after=None, net=None, discriminator=None, at=batch_at):
    """Reports of all steps and the last state; with `stop_after`, a copy of that step's state."""
    reports: list[StepReport] = []
    copies = []

    def on_step(report: StepReport):
        reports.append(report)
        if report.step == stop_after:
            copies.append(deepcopy(report.state()))
            raise KeyboardInterrupt

    try:
        last = train(
            net or make_net(),
            noisy_loss,
            at,
            config,
            state=state,
            on_step=on_step,
            discriminator=discriminator,
        )
    except KeyboardInterrupt:
        last = copies[0]
    return reports, last


def on_disk(folder: Path, state: TrainState) -> Snapshot:
    snapshots = Snapshots(folder)
    snapshots.save(state, next_batch=state.step)
    snapshots.close()
    snapshot = snapshots.latest()
    assert snapshot is not None
    return snapshot


def assert_same(a, b):
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("stop_after", [1, 5, 11])
@pytest.mark.parametrize("grad_accum_steps", [1, 3])
def test_a_stopped_run_resumes_bitwise(tmp_path, stop_after, grad_accum_steps):
    config = replace(CONFIG, grad_accum_steps=grad_accum_steps)
    whole, whole_end = run(config)
    first, middle = run(config, stop_after=stop_after)
    saved = on_disk(tmp_path, middle)
    torch.manual_seed(999)  # other code may draw in between
    rest, end = run(config, state=saved, net=make_net(seed=5))
    assert [r.losses for r in first + rest] == [r.losses for r in whole]
    assert [(r.step, r.learning_rate, r.grad_norm) for r in first + rest] == [
        (r.step, r.learning_rate, r.grad_norm) for r in whole
    ]
    assert_same(vars(end), vars(whole_end))


def test_a_killed_process_resumes_bitwise(tmp_path):
    """SIGKILL within a step, then a new process from the last saved state; with masking noise."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import torch
        from model.training.snapshots import Snapshots
        from model.training.loop import TrainConfig, train
        from model.world.batch import WorldBatch
        from model.world.config import TOKEN_VOCAB, LossConfig, MaskingConfig, tiny
        from model.world.dual_branch import DualBranchWorldModel
        from model.world.losses import world_loss_fn

        folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
        torch.set_num_threads(1)
        torch.manual_seed(0)
        sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "grid": (2, 2), "n_frames": 4}
        model = DualBranchWorldModel(tiny(**sizes, action_dim=2))

        def batch_at(i):
            g = torch.Generator().manual_seed(i)
            tokens = torch.randint(TOKEN_VOCAB, (2, 2, 4, 2, 2), generator=g)
            if i == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return WorldBatch(
                rgb_tokens=tokens[0],
                depth_tokens=tokens[1],
                actions=torch.randn(2, 4, 2, generator=g),
                tracks=torch.rand(2, 4, 3, 2, generator=g),
                visible=torch.ones(2, 4, 3, dtype=torch.bool),
                clip_ids=["a", "b"],
            )

        def on_step(report):
            with open(folder / "losses.txt", "a") as log:
                log.write(f"{report.step} {report.losses!r}\\n")
            if report.step % 3 == 0:
                snapshots.save(report.state(), next_batch=report.step)
                snapshots.wait()

        snapshots = Snapshots(folder / "states")
        loss_fn = world_loss_fn(LossConfig(), MaskingConfig())
        config = TrainConfig(steps=8, warmup_steps=2)
        train(model, loss_fn, batch_at, config, state=snapshots.latest(), on_step=on_step)
        """)
    )
    root = ROOT
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def losses(folder: Path, *kills: int) -> dict[str, str]:
        folder.mkdir()
        for kill in kills:
            result = subprocess.run(
                [sys.executable, script, folder, str(kill)], env=environment, capture_output=True
            )
            assert result.returncode == (-9 if kill >= 0 else 0), result.stderr.decode()
        lines = (folder / "losses.txt").read_text().splitlines()
        by_step: dict[str, str] = {}
        for step, values in (line.split(" ", 1) for line in lines):
            assert by_step.setdefault(step, values) == values, (
                f"step {step} was repeated with another result"
            )
        return by_step

    assert losses(tmp_path / "killed", 4, -1) == losses(tmp_path / "whole", -1)


def test_accumulated_batches_are_one_large_batch():
    """A linear model without noise: four batches of 4 give the same step as one of 16."""

    def loss(model, batch, generator):
        return {"total": F.mse_loss(model(batch.x), batch.y)}

    def all_four(i):
        parts = [batch_at(4 * i + j) for j in range(4)]
        return Points(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), [])

    nets = []
    for at, grad_accum_steps in ((batch_at, 4), (all_four, 1)):
        torch.manual_seed(0)
        nets.append(nn.Linear(3, 1))
        train(nets[-1], loss, at, replace(CONFIG, grad_accum_steps=grad_accum_steps, steps=3))
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


def test_it_learns_and_reports_every_step():
    reports, state = run(replace(CONFIG, steps=150, weight_decay=0.0), net=nn.Linear(3, 1))
    assert [r.step for r in reports] == list(range(1, 151)) and state.step == 150
    assert sum(r.losses["error"] for r in reports[-20:]) < 0.1 * sum(
        r.losses["error"] for r in reports[:20]
    )
    for report in reports:
        assert report.losses.keys() == {"total", "error"}
        assert report.losses["total"] == pytest.approx(2 * report.losses["error"])
    assert reports[4].clip_ids == [f"clip-4-{j}" for j in range(4)]


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = TrainConfig(steps=101, warmup_steps=10, min_lr_ratio=0.1, learning_rate=1.0)
    rates = [learning_rate_at(i, config) for i in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0 and rates[-1] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_weights_decay_on_matrices_only():
    """With zero gradients, only decay changes weights."""
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    for weight in net.parameters():
        nn.init.ones_(weight)

    def no_loss(model, batch, generator):
        return {"total": 0 * sum(p.sum() for p in model.parameters())}

    train(net, no_loss, batch_at, replace(CONFIG, steps=5, weight_decay=0.5))
    assert (net[0].weight < 1).all()
    assert (net[0].bias == 1).all() and (net[1].weight == 1).all() and (net[1].bias == 1).all()


def test_gradients_are_clipped_and_reported_as_they_were():
    steep = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(steep.weight)

    def loss(model, batch, generator):
        return {"total": -1000.0 * model.weight.sum()}

    seen = []
    train(steep, loss, batch_at, replace(CONFIG, steps=1, clip_norm=2.0), on_step=seen.append)
    assert seen[0].grad_norm == pytest.approx(1000.0)
    assert steep.weight.grad.item() == pytest.approx(-2.0, rel=1e-4)


def test_the_average_follows_the_weights():
    config = replace(CONFIG, steps=6, ema=0.5)
    average, trail = None, []

    def on_step(report):
        trail.append(deepcopy(report.state()))

    net = make_net()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    end = train(net, noisy_loss, batch_at, config, on_step=on_step)
    average = start["0.weight"]
    for i, state in enumerate(trail):
        decay = min(0.5, (1 + i) / (10 + i))
        average = decay * average + (1 - decay) * state.model["0.weight"]
    torch.testing.assert_close(end.ema["0.weight"], average)
    assert end.ema["1.num_batches_tracked"] == 6, "counters are copied, not averaged"
    assert end.ema.keys() == end.model.keys()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_loss_stops_and_names_the_clips(where):
    net = make_net()
    before = []

    def loss(model, batch, generator):
        losses = noisy_loss(model, batch, generator)
        if batch.clip_ids[0] == "clip-3-0":
            before.append({name: value.clone() for name, value in model.named_parameters()})
            # the gradient of sqrt at 0 is infinite, its value is not
            broken = losses["total"] * math.nan if where == "loss" else (0 * losses["total"]).sqrt()
            return losses | {"total": broken}
        return losses

    with pytest.raises(
        NonFiniteLoss, match=r"step 3: .*clips clip-3-0, clip-3-1, clip-3-2, clip-3-3"
    ):
        train(net, loss, batch_at, CONFIG)
    for name, value in net.named_parameters():
        assert torch.equal(value, before[0][name]), "the weights are those of the step before"


def make_discriminator(start: int = 0) -> Discriminator:
    torch.manual_seed(3)

    def loss(discriminator, batch, generator):
        return {"total": F.softplus(discriminator(batch.y)).mean()}

    return Discriminator(module=nn.Linear(1, 1), loss_fn=loss, learning_rate=0.3, start=start)


def test_a_discriminator_trains_from_its_start_and_resumes_too(tmp_path):
    whole, whole_end = run(discriminator=make_discriminator(start=4))
    assert ["discriminator/total" in r.losses for r in whole] == [False] * 4 + [True] * 8
    assert whole[-1].losses["discriminator/total"] < whole[4].losses["discriminator/total"]
    first, middle = run(discriminator=make_discriminator(start=4), stop_after=6)
    rest, end = run(discriminator=make_discriminator(start=4), state=on_disk(tmp_path, middle))
    assert [r.losses for r in first + rest] == [r.losses for r in whole]
    assert_same(vars(end), vars(whole_end))
    plain, _ = run()
    assert [r.losses["total"] for r in plain[:4]] == [r.losses["total"] for r in whole[:4]]


def test_a_nan_loss_of_the_discriminator_says_whose_weights_are_of_which_step():
    first, discriminator, seen = make_net(), make_discriminator(), []

    def broken(discriminator, batch, generator):
        seen.append(
            {
                name: value.clone()
                for name, value in (*first.named_parameters(), *discriminator.named_parameters())
            }
        )
        return {"total": discriminator(batch.y).mean() * (math.nan if len(seen) == 4 else 1.0)}

    message = (
        r"step 3: the discriminator's loss .*nan.*; clips clip-3-0, .* Its weights are those of "
        r"the step before; the first network has taken this step already, .* "
        r"lower the discriminator's learning_rate\."
    )
    with pytest.raises(NonFiniteLoss, match=message):
        run(net=first, discriminator=replace(discriminator, loss_fn=broken))
    assert not any(torch.equal(seen[3][name], seen[2][name]) for name in seen[3]), (
        "both moved before"
    )
    assert all(
        torch.equal(value, seen[3][name]) for name, value in discriminator.module.named_parameters()
    )
    assert all(torch.equal(value, seen[3][name]) for name, value in first.named_parameters())


def test_a_state_of_another_kind_is_refused(tmp_path):
    _, state = run(stop_after=2)
    saved = on_disk(tmp_path, state)
    with pytest.raises(ValueError, match="saved state of step 2 has averaged weights"):
        run(replace(CONFIG, ema=None), state=saved)
    with pytest.raises(ValueError, match="lacks a discriminator"):
        run(discriminator=make_discriminator(), state=saved)


def test_noise_differs_by_seed_step_and_role():
    draws = {
        torch.rand((), generator=step_generator(*key)).item()
        for key in [(0, 0), (0, 1), (1, 0), (0, 0, 1), (1, 1)]
    }
    assert len(draws) == 5
    assert (
        torch.rand((), generator=step_generator(4, 5)).item()
        == torch.rand((), generator=step_generator(4, 5)).item()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"grad_accum_steps": 0},
        {"learning_rate": 0.0},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
        {"ema": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**({"steps": 10} | wrong))
