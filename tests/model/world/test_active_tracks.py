import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.world.keypoints import apply_homography, camera_homographies, cells_of, select_active_tracks


def lattice(n: int = 12) -> torch.Tensor:
    side = (torch.arange(n) + 0.5) / n
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)  # (n*n, 2)


def scene(camera, n_moving: int = 0, t: int = 8, noise: float = 0.0):
    """Tracks of a lattice of points seen by a moving camera; the first `n_moving` also move by themselves."""
    generator = torch.Generator().manual_seed(0)
    points = lattice()[torch.randperm(144, generator=generator)]
    frames = []
    for i in range(t):
        now = points.clone()
        now[:n_moving] += i * torch.tensor([0.012, -0.02])
        frames.append(camera(now, i) + noise * torch.randn(now.shape, generator=generator))
    tracks = torch.stack(frames)[None]
    return tracks, torch.ones(tracks.shape[:3], dtype=torch.bool)


def still(points, i):
    return points


def panning(points, i):
    return points + i * torch.tensor([0.025, 0.01])


def turning(points, i):
    """Roll, zoom and a little perspective about the frame's centre."""
    angle, zoom = 0.03 * i, 1 + 0.02 * i
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centred = (points - 0.5) @ rotation.T * zoom
    return centred / (1 + 0.02 * i * centred[:, :1]) + 0.5


@pytest.mark.parametrize("camera", [panning, turning])
@pytest.mark.parametrize("noise", [0.0, 0.0005])
def test_a_moving_camera_over_a_still_scene_selects_nothing_when_compensated(camera, noise):
    tracks, visible = scene(camera, noise=noise)
    plain = select_active_tracks(tracks, visible, 32)
    assert (plain.index >= 0).all(), "without compensation the background looks active"
    assert plain.camera_motion.item() == 0
    compensated = select_active_tracks(tracks, visible, 32, compensate_camera=True)
    assert (compensated.index == -1).all() and not compensated.visible.any() and not compensated.tracks.any()
    assert compensated.camera_motion.item() > 0.05


@pytest.mark.parametrize("camera", [still, panning, turning])
@pytest.mark.parametrize("n_moving", [5, 50])
def test_what_moves_by_itself_is_found_under_any_camera(camera, n_moving):
    tracks, visible = scene(camera, n_moving=n_moving, noise=0.0005)
    found = select_active_tracks(tracks, visible, 64, compensate_camera=True)
    expected = (visible & ((tracks >= 0) & (tracks < 1)).all(-1)).float()[0].mean(0)[
        :n_moving
    ] > 0.5  # long enough seen
    chosen = set(found.index[0].tolist()) - {-1}
    assert set(range(n_moving)) >= chosen >= set(expected.nonzero()[:, 0].tolist())


def test_homography_is_recovered_from_a_majority():
    before = lattice().double()
    h = torch.tensor([[1.05, 0.02, 0.03], [-0.01, 0.97, -0.02], [0.05, -0.03, 1.0]], dtype=torch.float64)
    after = apply_homography(h, before)
    after[:50] += torch.tensor([0.15, -0.1])  # a third moves together: the hard kind of outlier
    seen = torch.ones(len(before), dtype=torch.bool)
    torch.testing.assert_close(camera_homographies(before, after, seen), h, atol=1e-4, rtol=0)


def test_a_handful_of_points_says_nothing_about_the_camera():
    before = lattice()[:5]
    h = camera_homographies(before, before + 0.1, torch.ones(5, dtype=torch.bool))
    assert torch.equal(h, torch.eye(3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(0, 9), k=st.integers(1, 6))
def test_selection_agrees_with_plain_loops(seed, p, k):
    g = torch.Generator().manual_seed(seed)
    tracks = torch.rand(2, 4, p, 2, generator=g) * 1.1
    visible = torch.rand(2, 4, p, generator=g) < 0.7
    found = select_active_tracks(tracks, visible, k, min_motion=0.2)
    for b in range(2):
        motion = []
        for i in range(p):
            length = 0.0
            for t in range(3):
                ends = [tracks[b, t, i], tracks[b, t + 1, i]]
                inside = all(bool((end >= 0).all() and (end < 1).all()) for end in ends)
                if visible[b, t, i] and visible[b, t + 1, i] and inside:
                    length += math.dist(ends[0].tolist(), ends[1].tolist())
            motion.append(length)
        best = sorted((m, i) for i, m in enumerate(motion) if m >= 0.2)[::-1][:k]
        assert found.index[b].tolist() == [i for _, i in best] + [-1] * (k - len(best))
        torch.testing.assert_close(found.motion[b], torch.tensor([m for m, _ in best] + [0.0] * (k - len(best))))
        for place, (_, i) in enumerate(best):
            assert torch.equal(found.tracks[b, :, place], tracks[b, :, i])
            inside = ((tracks[b, :, i] >= 0) & (tracks[b, :, i] < 1)).all(-1)
            assert torch.equal(found.visible[b, :, place], visible[b, :, i] & inside)
        assert not found.visible[b, :, len(best) :].any()


def test_cells_are_row_major_and_clamped():
    points = torch.tensor([[0.0, 0.0], [0.99, 0.0], [0.0, 0.99], [0.3, 0.5], [1.0, 1.0], [-0.2, 2.0]])
    assert cells_of(points, (3, 4)).tolist() == [0, 3, 8, 5, 11, 8]
