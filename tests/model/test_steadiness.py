"""Flicker and edge sharpness against slow versions in plain loops, and the laws they obey."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.colour import opponent
from model.steadiness import EDGE_JUMP, depth_edges, edge_sharpness, flicker
from model.value_range import IMAGES


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(b: int = 2, t: int = 3, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """A near, bright square before a far background: video, inverse depth, where it is known."""
    video = -0.5 + 0.1 * torch.rand(b, t, 3, side, side, generator=noise())
    inverse = 0.5 + 0.02 * torch.rand(b, t, side, side, generator=noise(1))
    for i in range(t):
        video[:, i, :, 5:11, 3 + i : 9 + i] += 0.9
        inverse[:, i, 5:11, 3 + i : 9 + i] = 2.0
    return video, inverse, torch.ones_like(inverse, dtype=torch.bool)


def spread(b: int = 2) -> Tensor:
    return torch.full((b,), 1.5)


# --- flicker


def test_flicker_agrees_with_a_plain_loop():
    video = torch.rand(2, 4, 3, 5, 6, generator=noise()) * 2 - 1
    still = torch.rand(2, 5, 6, generator=noise(1)) < 0.5
    found = flicker(video, still, value_range=IMAGES)
    for b in range(2):
        changes = [
            abs(video[b, t, c, y, x].item() - video[b, t - 1, c, y, x].item()) * 127.5
            for t in range(1, 4) for c in range(3) for y in range(5) for x in range(6)
            if still[b, y, x]
        ]  # fmt: skip
        assert found[b].item() == pytest.approx(sum(changes) / len(changes), rel=1e-5)


def test_a_still_video_does_not_flicker_and_what_moves_does_not_count():
    video, _, _ = scene()
    everywhere = torch.ones(2, 16, 16, dtype=torch.bool)
    held = video[:, :1].expand_as(video)
    assert flicker(held, everywhere, value_range=IMAGES).tolist() == [0, 0]
    passing = held.clone()
    passing[:, 1, :, 4:8] = 0.9
    still = everywhere.clone()
    still[:, 4:8] = False
    assert flicker(passing, still, value_range=IMAGES).tolist() == [0, 0]
    assert (flicker(passing, everywhere, value_range=IMAGES) > 0).all()


def test_more_noise_flickers_more_in_the_same_unit_whatever_the_range():
    video = torch.zeros(1, 6, 3, 8, 8)
    still = torch.ones(1, 8, 8, dtype=torch.bool)
    shaken = torch.randn(video.shape, generator=noise())
    levels = [0.0, 0.02, 0.05, 0.1]
    found = [flicker(by * shaken - 0.3, still, value_range=IMAGES).item() for by in levels]
    assert found == sorted(found) and found[0] == 0 < found[1]
    unit = flicker((0.1 * shaken + 0.7) / 2, still, value_range=(0, 1)).item()
    assert unit == pytest.approx(found[-1], rel=1e-4)
    # A step of one grey level from frame to frame is 1
    step = (torch.arange(4) / 127.5)[None, :, None, None, None].expand(1, 4, 3, 8, 8) - 0.5
    assert flicker(step, still, value_range=IMAGES).item() == pytest.approx(1, rel=1e-5)


def test_clips_that_cannot_flicker_are_refused():
    video = torch.rand(2, 3, 3, 4, 4, generator=noise()) * 2 - 1
    still = torch.ones(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="a video of 1 frames"):
        flicker(video[:, :1], still, value_range=IMAGES)
    still[1] = False
    with pytest.raises(ValueError, match="clip 1 of the batch: no pixel is chosen"):
        flicker(video, still, value_range=IMAGES)


# --- edges of depth


def test_edges_agree_with_a_plain_loop():
    inverse = torch.rand(2, 2, 7, 8, generator=noise())
    valid = torch.rand(inverse.shape, generator=noise(1)) < 0.8
    found = depth_edges(inverse, valid, torch.tensor([4.0, 6.0]))
    for b, t in ((b, t) for b in range(2) for t in range(2)):
        limit = EDGE_JUMP * (4.0, 6.0)[b]
        at = set()
        for y in range(7):
            for x in range(8):
                for ny, nx in ((y + 1, x), (y, x + 1)):
                    if ny == 7 or nx == 8 or not (valid[b, t, y, x] and valid[b, t, ny, nx]):
                        continue
                    if abs(inverse[b, t, y, x].item() - inverse[b, t, ny, nx].item()) > limit:
                        at |= {(y, x), (ny, nx)}
        for y in range(7):
            for x in range(8):
                near = any((y + dy, x + dx) in at for dy in (-1, 0, 1) for dx in (-1, 0, 1))
                assert found[b, t, y, x] == near
    assert 0 < found.float().mean() < 1


@given(scale=st.floats(0.1, 50), shift=st.floats(-2, 2))
def test_edges_do_not_depend_on_scale_and_shift(scale, shift):
    _, inverse, valid = scene()
    edges = depth_edges(inverse, valid, spread())
    other = depth_edges(inverse * scale + shift, valid, spread() * scale)
    assert torch.equal(edges, other)
    assert edges[:, :, 5:11, 0].sum() == 0 and edges[:, 0, 7, 2].all()
    assert not depth_edges(inverse, torch.zeros_like(valid), spread()).any()


# --- sharpness


def test_sharpness_agrees_with_a_plain_loop():
    video, inverse, valid = scene()
    other = (video + 0.1 * torch.randn(video.shape, generator=noise(2))).clamp(-1, 1)
    edges = depth_edges(inverse, valid, spread())
    found = edge_sharpness(other, video, edges, value_range=IMAGES)

    def slope(clip: Tensor) -> float:
        total, (t, h, w) = 0.0, (clip.shape[0], *clip.shape[2:])
        grey = opponent(clip)[:, 0]
        for i in range(t):
            for y in range(h):
                for x in range(w):
                    if edges[b, i, y, x]:
                        dx = grey[i, y, min(x + 1, w - 1)] - grey[i, y, max(x - 1, 0)]
                        dy = grey[i, min(y + 1, h - 1), x] - grey[i, max(y - 1, 0), x]
                        total += math.hypot(dx.item(), dy.item()) / 2
        return total

    for b in range(2):
        assert found[b].item() == pytest.approx(slope(other[b]) / slope(video[b]), rel=1e-4)


def test_blur_takes_sharpness_the_more_the_wider_and_noise_adds_some():
    video, inverse, valid = scene(side=24)
    edges = depth_edges(inverse, valid, spread())

    def blurred(side: int) -> Tensor:
        flat = video.flatten(0, 1)
        return F.avg_pool2d(flat, side, 1, side // 2, count_include_pad=False).view_as(video)

    found = [edge_sharpness(blurred(s), video, edges, value_range=IMAGES)[0] for s in (1, 3, 5, 9)]
    assert found[0] == 1 and all(a > b for a, b in pairwise(found))
    assert found[-1] < 0.5
    shaken = (video + 0.2 * torch.randn(video.shape, generator=noise())).clamp(-1, 1)
    assert (edge_sharpness(shaken, video, edges, value_range=IMAGES) > 1).all()


def test_what_is_not_at_an_edge_does_not_count_and_a_flat_target_has_no_sharpness():
    video, inverse, valid = scene()
    edges = depth_edges(inverse, valid, spread())
    grown = F.max_pool2d(edges.float(), 3, stride=1, padding=1)[:, :, None] > 0
    other = torch.where(grown, video, -video)
    assert edge_sharpness(other, video, edges, value_range=IMAGES).tolist() == [1, 1]
    flat = torch.full_like(video, -0.2)
    assert edge_sharpness(video, flat, edges, value_range=IMAGES).isnan().all()
    edges[0] = False
    with pytest.raises(ValueError, match="clip 0 of the batch: no pixel is chosen"):
        edge_sharpness(video, video, edges, value_range=IMAGES)
