"""The depth losses against slow versions, their laws, and overfitting of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from vda_small import SMALL

from model.video_depth.losses import (
    DepthLossConfig,
    depth_loss,
    fitted,
    gradient_matching,
    log_depth,
    normalised_clips,
    temporal_gradient_matching,
)
from model.video_depth.model import VideoDepth

CONFIG = DepthLossConfig()


def some_depth(seed: int, b: int = 2, t: int = 3, h: int = 7, w: int = 6) -> Tensor:
    """Depth in 0.5 .. 2 whose changes between frames are around the threshold."""
    generator = torch.Generator().manual_seed(seed)
    first = 0.5 + 1.4 * torch.rand(b, 1, h, w, generator=generator)
    return first + 0.1 * torch.rand(b, t, h, w, generator=generator)


def some_mask(seed: int = 9, b: int = 2, t: int = 3, h: int = 7, w: int = 6) -> Tensor:
    return torch.rand(b, t, h, w, generator=torch.Generator().manual_seed(seed)) < 0.7


def slow_normalised(x: Tensor, valid: Tensor) -> Tensor:
    out = x.clone()
    for clip, mask, made in zip(x.tolist(), valid.tolist(), out, strict=True):
        kept = sorted(
            v for frame, m in zip(clip, mask, strict=True) for row, r in zip(frame, m, strict=True)
            for v, ok in zip(row, r, strict=True) if ok
        )  # fmt: skip
        centre = kept[(len(kept) - 1) // 2]
        scale = sum(abs(v - centre) for v in kept) / len(kept)
        made.copy_((torch.tensor(clip) - centre) / scale)
    return out


def slow_fitted(x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
    """Each clip by a library's least squares."""
    out = x.clone()
    for clip, target, mask, made in zip(x, y, valid, out, strict=True):
        columns = torch.stack([clip[mask], torch.ones(int(mask.sum()))], dim=1).double()
        scale, shift = torch.linalg.lstsq(
            columns, target[mask].double()[:, None]
        ).solution.flatten()
        made.copy_(clip * scale + shift)
    return out


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def slow_gradient(x: Tensor, y: Tensor, valid: Tensor, n_scales: int) -> float:
    error, (b, t, h, w) = (x - y).tolist(), x.shape
    total = 0.0
    for step in (2**k for k in range(n_scales)):
        across, down = [], []
        for i in range(b):
            for j in range(t):
                for row in range(0, h, step):
                    for column in range(0, w, step):
                        here = error[i][j][row][column]
                        if (
                            column + step < w
                            and valid[i, j, row, column]
                            and valid[i, j, row, column + step]
                        ):
                            across.append(abs(error[i][j][row][column + step] - here))
                        if (
                            row + step < h
                            and valid[i, j, row, column]
                            and valid[i, j, row + step, column]
                        ):
                            down.append(abs(error[i][j][row + step][column] - here))
        total += mean(across) + mean(down)
    return total


def slow_temporal(x: Tensor, y: Tensor, valid: Tensor, still: float) -> float:
    b, t, h, w = x.shape
    terms = []
    for i in range(b):
        for j in range(t - 1):
            for row in range(h):
                for column in range(w):
                    place = (row, column)
                    change = abs(y[i, j + 1][place] - y[i, j][place]).item()
                    if valid[i, j][place] and valid[i, j + 1][place] and change < still:
                        terms.append(abs(abs(x[i, j + 1][place] - x[i, j][place]).item() - change))
    assert 0 < len(terms) < valid[:, 1:].sum()  # the threshold keeps some and drops some
    return mean(terms)


def test_normalisation_agrees_with_the_slow_version():
    x, valid = some_depth(0), some_mask()
    assert_close(normalised_clips(x, valid), slow_normalised(x, valid), atol=1e-5, rtol=0)


def test_fit_agrees_with_the_slow_version():
    y, valid = some_depth(0), some_mask()
    # Correlated, as any scale that least squares finds must be positive
    x = y + 0.5 * some_depth(1)
    assert_close(fitted(x, y, valid), slow_fitted(x, y, valid), atol=1e-5, rtol=0)


def test_fit_does_not_invert_a_prediction():
    y, valid = some_depth(0), some_mask()
    made = fitted(-y, y, valid)
    assert_close(
        made,
        y.new_tensor([y[i][valid[i]].mean() for i in range(2)]).view(2, 1, 1, 1).expand_as(y),
        atol=0.05,
        rtol=0,
    )
    assert depth_loss(-y, y, valid, CONFIG, metric=False).parts["point"] > 0.9


@pytest.mark.parametrize("n_scales", [1, 2, 4])
def test_gradient_term_agrees_with_the_slow_version(n_scales: int):
    x, y, valid = some_depth(0), some_depth(1), some_mask()
    made = gradient_matching(x, y, valid, n_scales)
    assert made.item() == pytest.approx(slow_gradient(x, y, valid, n_scales), rel=1e-5)


def test_temporal_term_agrees_with_the_slow_version():
    x, y, valid = some_depth(0), some_depth(1), some_mask()
    made = temporal_gradient_matching(x, y, valid, 0.05)
    assert made.item() == pytest.approx(slow_temporal(x, y, valid, 0.05), rel=1e-4)


@pytest.mark.parametrize("metric", [False, True])
def test_parts_and_total(metric: bool):
    y, valid = some_depth(1), some_mask()
    x = y + 0.3 * some_depth(0) - 0.9  # some of it below 0
    config = DepthLossConfig(
        point=0.7, gradient=0.3, temporal=2.0, negative=0.2, n_scales=2, still=0.04
    )
    loss = depth_loss(x, y, valid, config, metric=metric)
    below = mean([max(0.0, -v) for v in x.flatten().tolist()])
    assert below > 0
    if metric:
        x, y = (v.clamp(min=0).add(0.01).log() for v in (x, y))
    else:
        y = slow_normalised(y, valid)
        x = slow_fitted(x, y, valid)
    expected = {
        "point": (x - y).abs()[valid].mean().item(),
        "gradient": slow_gradient(x, y, valid, 2),
        "temporal": slow_temporal(x, y, valid, 0.04),
        "negative": below,
    }
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        expected, rel=1e-4
    )
    weights = {"point": 0.7, "gradient": 0.3, "temporal": 2.0, "negative": 0.2}
    assert loss.total.item() == pytest.approx(
        sum(weights[name] * part for name, part in expected.items()), rel=1e-4
    )


def test_relative_loss_ignores_scale_and_shift_of_a_clip_not_of_a_frame():
    y, valid = some_depth(1), some_mask()
    scale, shift = (
        torch.tensor([0.3, 7.0]).view(2, 1, 1, 1),
        torch.tensor([2.0, -1.0]).view(2, 1, 1, 1),
    )
    config = DepthLossConfig(negative=0.0)
    assert depth_loss(y * scale + shift, y, valid, config, metric=False).total < 1e-4
    breathing = y * torch.tensor([1.0, 1.3, 1.0]).view(1, 3, 1, 1)
    assert depth_loss(breathing, y, valid, CONFIG, metric=False).total > 0.5


def test_metric_loss_is_a_relative_error():
    y, valid = some_depth(1), some_mask()
    parts = depth_loss(1.1 * y, y, valid, CONFIG, metric=True).parts
    assert parts["point"].item() == pytest.approx(math.log(1.1), rel=0.02)
    assert log_depth(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(math.log(0.01))


@pytest.mark.parametrize("metric", [False, True])
def test_invalid_pixels_are_not_read(metric: bool):
    x, y, valid = some_depth(0).requires_grad_(), some_depth(1), some_mask()
    spoiled = torch.where(valid, y, torch.nan)
    loss = depth_loss(x, spoiled, valid, CONFIG, metric=metric)
    assert torch.equal(loss.total, depth_loss(x, y, valid, CONFIG, metric=metric).total)
    (slope,) = torch.autograd.grad(loss.total, x)
    assert slope.isfinite().all()
    assert (slope[~valid] == 0).all() and slope[valid].any()
    with pytest.raises(ValueError, match=r"clips \[1\] have no valid pixel"):
        depth_loss(
            x, y, valid & torch.tensor([True, False]).view(2, 1, 1, 1), CONFIG, metric=metric
        )


def test_flicker_costs_only_where_the_true_depth_is_still():
    y = torch.zeros(1, 2, 4, 4)
    y[:, 1, :, 2:] = 1.0  # the right half moves away
    x = y.clone()
    x[:, 1, 0, 3] += 0.5
    valid = torch.ones_like(y, dtype=torch.bool)
    assert temporal_gradient_matching(x, y, valid, 0.05) == 0
    x[:, 1, 0, 0] += 0.5
    assert temporal_gradient_matching(x, y, valid, 0.05).item() == pytest.approx(0.5 / 8)
    assert temporal_gradient_matching(x[:, :1], y[:, :1], valid[:, :1], 0.05) == 0  # one frame


def scene(side: int = 42) -> tuple[Tensor, Tensor]:
    """Frames and depth of two clips: a disc at 1 m moves over a floor from 3 to 1.5 m."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    floor = 3 - 1.5 * y / side
    frames, depth = torch.full((2, 3, 3, side, side), -0.5), floor.expand(2, 3, side, side).clone()
    for clip, (row, column, speed) in enumerate([(14, 14, 4), (26, 24, -3)]):
        for t in range(3):
            disc = (x - column - speed * t) ** 2 + (y - row) ** 2 < (side / 5) ** 2
            frames[clip, t, 0, disc], depth[clip, t, disc] = 1.5, 1.0
    return frames, depth


@pytest.mark.parametrize(("metric", "steps", "share_left"), [(False, 80, 0.3), (True, 50, 0.2)])
def test_overfits_one_batch(metric: bool, steps: int, share_left: float):
    torch.manual_seed(0)
    network = VideoDepth(replace(SMALL, metric=metric))
    frames, depth = scene()
    target, valid = (depth if metric else 1 / depth), torch.ones_like(depth, dtype=torch.bool)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    errors = []
    for _ in range(steps):
        predicted = network(frames, signed=True, frames_per_step=6)
        loss = depth_loss(predicted, target, valid, DepthLossConfig(temporal=1.0), metric=metric)
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay.step()
        errors.append(loss.parts["point"].item())
    assert errors[-1] < share_left * errors[0]
