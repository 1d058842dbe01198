"""The loss against a slow version in plain loops, and overfitting of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from tracker_cases import SMALL, clip, queries, small_tracker

from model.spatial_tracker.losses import TrackerLossConfig, tracker_loss
from model.spatial_tracker.model import SpatialTracker, TrackerOutput


def some_output() -> tuple[TrackerOutput, Tensor, Tensor, Tensor]:
    """Two clips of 8 frames in windows of 6 (the second ends after the clip), gaps in targets."""
    (video, depth), (frames, points) = clip(b=2, t=8), queries(p=5, b=2, last_frame=7)
    with torch.no_grad():
        output = small_tracker()(video, depth, frames, points)
    generator = torch.Generator().manual_seed(3)
    tracks = output.tracks + torch.randn(2, 8, 5, 3, generator=generator)
    visible, valid = (torch.rand(2, 8, 5, generator=generator) < share for share in (0.5, 0.7))
    return output, torch.where(valid[..., None], tracks, torch.nan), visible, valid


def slow_loss(
    output: TrackerOutput, tracks: Tensor, visible: Tensor, valid: Tensor, config: TrackerLossConfig
) -> dict:
    """Term by term."""

    def robust(error: float) -> float:
        error, limit = abs(error), config.huber_px
        return error - limit / 2 if error >= limit else error**2 / (2 * limit)

    sums, n = {"position": 0.0, "depth": 0.0, "visibility": 0.0}, 0
    near, far, n_cells = output.depth_range
    for window in output.windows:
        n_iterations = len(window.tracks)
        for b in range(len(tracks)):
            for s in range(window.visibility.shape[1]):
                for i, p in enumerate(window.points):
                    t = window.start + s
                    if t >= tracks.shape[1] or t < output.query_frames[p] or not valid[b, t, p]:
                        continue
                    n += 1
                    for k in range(n_iterations):
                        x, y, z = (window.tracks[k, b, s, i] - tracks[b, t, p]).tolist()
                        share = config.gamma ** (n_iterations - 1 - k)
                        sums["position"] += share * (robust(x) + robust(y))
                        sums["depth"] += share * robust(z * 4 * n_cells / (far[b] - near[b]).item())
                    q = 1 / (1 + math.exp(-window.visibility[b, s, i].item()))
                    sums["visibility"] -= math.log(q if visible[b, t, p] else 1 - q)
    return {name: value / n for name, value in sums.items()}


@pytest.mark.parametrize("huber_px", [0.0, 0.7])
def test_loss_agrees_with_the_slow_version(huber_px: float):
    config = TrackerLossConfig(gamma=0.6, depth=0.5, visibility=3.0, huber_px=huber_px)
    case = some_output()
    assert [window.start for window in case[0].windows] == [0, 3]
    loss = tracker_loss(*case, config)
    expected = slow_loss(*case, config)
    for name, value in expected.items():
        assert loss.parts[name].item() == pytest.approx(value, rel=1e-4), name
    total = expected["position"] + 0.5 * expected["depth"] + 3 * expected["visibility"]
    assert loss.total.item() == pytest.approx(total, rel=1e-4)


def test_true_tracks_have_no_loss_in_any_unit_of_depth():
    output, _, visible, valid = some_output()
    last = output.windows[-1]
    exact = output._replace(windows=(last._replace(tracks=last.tracks[-1:]),))
    assert (
        tracker_loss(exact, output.tracks, visible, valid, TrackerLossConfig()).parts["position"]
        == 0
    )
    beside = output.tracks + torch.tensor([1.0, -2.0, 0.5])
    metres = tracker_loss(exact, beside, visible, valid, TrackerLossConfig()).parts
    assert metres["position"].item() == pytest.approx(3, rel=1e-4)
    unit = torch.tensor([1.0, 1.0, 1000.0])
    scaled = exact._replace(
        windows=(exact.windows[0]._replace(tracks=exact.windows[0].tracks * unit),),
        depth_range=output.depth_range._replace(
            near=1000 * output.depth_range.near, far=1000 * output.depth_range.far
        ),
    )
    millimetres = tracker_loss(scaled, beside * unit, visible, valid, TrackerLossConfig()).parts
    assert_close(millimetres["depth"], metres["depth"])


def test_invalid_points_have_no_gradient():
    network = small_tracker().train()
    (video, depth), (frames, points) = clip(t=8), queries(p=4)
    output = network(video, depth, frames, points)
    tracks = torch.full((1, 8, 4, 3), torch.nan)
    valid = torch.zeros(1, 8, 4, dtype=torch.bool)
    valid[:, :, 0] = True
    tracks[:, :, 0] = points[:, None, 0]
    tracker_loss(output, tracks, valid, valid, TrackerLossConfig()).total.backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_nothing_valid_is_refused():
    output, tracks, visible, valid = some_output()
    with pytest.raises(ValueError, match="no point is valid in any frame from its query on"):
        tracker_loss(output, tracks, visible, torch.zeros_like(valid), TrackerLossConfig())


def test_weights_out_of_range_are_refused():
    for name, value in (("gamma", 0.0), ("gamma", 1.1), ("depth", -1.0), ("huber_px", -0.1)):
        with pytest.raises(ValueError, match="expected gamma in"):
            replace(TrackerLossConfig(), **{name: value})


def moving_texture(
    velocities: list[tuple[int, int]], recede: float, t: int = 6, side: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of a texture on a slope that moves by whole pixels and recedes by a share of its depth.

    Returns frames, depth, and the tracks of 4 x 4 points of the first frame.
    """
    generator = torch.Generator().manual_seed(5)
    texture = F.interpolate(
        torch.rand(1, 3, 32, 32, generator=generator), (256, 256), mode="bicubic"
    )[0].clamp(0, 1)
    slope = torch.linspace(1, 3, 256).expand(1, 256, 256)
    world = torch.cat([255 * texture, slope])
    made = [
        torch.stack([world[:, 96 - i * y :, 96 - i * x :][:, :side, :side] for i in range(t)])
        for x, y in velocities
    ]
    frames, still_depth = torch.stack(made).split([3, 1], dim=2)
    farther = 1 + recede * torch.arange(t)[:, None, None]
    grid = torch.cartesian_prod(torch.linspace(8, 56, 4), torch.linspace(8, 56, 4))
    places = grid + torch.arange(t)[:, None, None] * torch.tensor(velocities)[:, None, None]
    first = still_depth[:, 0, 0, grid[:, 1].long(), grid[:, 0].long()]
    tracks = torch.cat([places, (first[:, None] * farther[..., 0])[..., None]], dim=-1)
    return frames, still_depth[:, :, 0] * farther, tracks


def test_overfits_one_batch():
    """A still clip, and one that moves 5.6 px on average; both recede, some points leave."""
    torch.manual_seed(0)
    frames, depth, tracks = moving_texture([(2, 1), (0, 0)], recede=0.01)
    visible = ((tracks[..., :2] >= 0) & (tracks[..., :2] < 64)).all(-1)
    assert not visible.all()
    network, valid, n_steps = SpatialTracker(SMALL), torch.ones_like(visible), 80
    optimizer = torch.optim.AdamW(network.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 5) * (1 - step / n_steps)
    )

    def run() -> tuple[TrackerOutput, Tensor, Tensor]:
        output = network(frames, depth, torch.zeros(16, dtype=torch.long), tracks[:, 0])
        error = output.tracks - tracks
        return output, error[..., :2].norm(dim=-1).mean(dim=(1, 2)), error[..., 2].abs().mean()

    _, _, depth_before = run()
    for _ in range(n_steps):
        loss = tracker_loss(run()[0], tracks, visible, valid, TrackerLossConfig(depth=0.2))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        output, distance, depth_error = run()
    assert distance[0] < 1 and distance[1] < 0.2
    assert depth_error < 0.5 * depth_before
    assert ((output.visibility > 0) == visible).float().mean() > 0.97
