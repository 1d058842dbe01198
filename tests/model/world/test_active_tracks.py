import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.world.keypoints import (
    apply_homography,
    camera_homographies,
    cells_of,
    select_active_tracks,
)


def lattice(n: int = 12) -> torch.Tensor:
    side = (torch.arange(n) + 0.5) / n
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)  # (n*n, 2)


def scene(camera, n_moving: int = 0, t: int = 8, noise: float = 0.0):
    """Tracks of a lattice seen by a moving camera; the first `n_moving` points also move."""
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
    """A homography: roll, zoom and a little perspective about the frame's centre."""
    angle, zoom = 0.03 * i, 1 + 0.02 * i
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    centred = (points - 0.5) @ rotation.T * zoom
    return centred / (1 + 0.02 * i * centred[:, :1]) + 0.5


@pytest.mark.parametrize("camera", [panning, turning])
@pytest.mark.parametrize("noise", [0.0, 0.0005])
def test_compensation_selects_nothing_in_a_still_scene(camera, noise):
    tracks, visible = scene(camera, noise=noise)
    plain = select_active_tracks(tracks, visible, 32)
    assert (plain.index >= 0).all(), "without compensation the background looks active"
    assert plain.camera_motion.item() == 0
    compensated = select_active_tracks(tracks, visible, 32, compensate_camera=True)
    assert (
        (compensated.index == -1).all()
        and not compensated.visible.any()
        and not compensated.tracks.any()
    )
    assert compensated.camera_motion.item() > 0.05


@pytest.mark.parametrize("camera", [still, panning, turning])
@pytest.mark.parametrize("n_moving", [5, 50])
def test_moving_points_are_found_under_any_camera(camera, n_moving):
    tracks, visible = scene(camera, n_moving=n_moving, noise=0.0005)
    found = select_active_tracks(tracks, visible, 64, compensate_camera=True)
    seen = (visible & ((tracks >= 0) & (tracks < 1)).all(-1)).float()[0].mean(0)
    expected = seen[:n_moving] > 0.5  # visible for long enough
    chosen = set(found.index[0].tolist()) - {-1}
    assert set(range(n_moving)) >= chosen >= set(expected.nonzero()[:, 0].tolist())


FX, FY = 322 / 640, 429 / 480  # AGIBOT's head camera, as shares of the frame


def head_turns(
    pan: float, n_moving: int = 0, noise: float = 0.0, stuck: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tracks of points, 0.5 to 2 m away, seen by a head that turns by `pan` rad a frame and nods.

    As from a tracker: with independent noise of each coordinate, 5 % of the points lost at any
    time, points outside the frame not visible. The first `n_moving` points move through the scene;
    a share `stuck` of the others (dirt on the lens, a part of the head, tracking errors) keeps its
    place in the picture.
    """
    generator = torch.Generator().manual_seed(seed)
    points = lattice(32)[torch.randperm(1024, generator=generator)]
    distance = 0.5 + 1.5 * torch.rand(len(points), 1, generator=generator)
    scale = torch.tensor([FX, FY])
    places = torch.cat([(points - 0.5) / scale, torch.ones(len(points), 1)], 1) * distance
    stays = (torch.rand(len(points), 1, generator=generator) < stuck) & (
        torch.arange(len(points)) >= n_moving
    )[:, None]
    frames = []
    for t in range(16):
        seen = places @ rotation(pan * t, 0.004 * t).T
        frames.append(torch.where(stays, points, seen[:, :2] / seen[:, 2:] * scale + 0.5))
        places[:n_moving] += torch.tensor([0.015, -0.02, 0.0]) * distance[:n_moving]
    tracks = torch.stack(frames)
    visible = ((tracks >= 0) & (tracks < 1)).all(-1) & (
        torch.rand(tracks.shape[:2], generator=generator) > 0.05
    )
    return (tracks + noise * torch.randn(tracks.shape, generator=generator))[None], visible[None]


def rotation(pan: float, tilt: float) -> torch.Tensor:
    c, s, ct, st = math.cos(pan), math.sin(pan), math.cos(tilt), math.sin(tilt)
    return torch.tensor([[1, 0, 0], [0, ct, -st], [0, st, ct]]) @ torch.tensor(
        [[c, 0, -s], [0, 1, 0], [s, 0, c]]
    )


@pytest.mark.parametrize("stuck", [0.0, 0.1])
@pytest.mark.parametrize("noise", [0.0005, 0.002])  # 0.13 and 0.5 pixels of 256
@pytest.mark.parametrize(("pan", "leaving"), [(0.0, 0.0), (0.02, 0.2), (0.06, 0.5)])
def test_a_turning_head_before_a_still_scene_selects_nothing(pan, leaving, noise, stuck):
    tracks, visible = head_turns(pan, noise=noise, stuck=stuck)
    assert visible[0, -1].float().mean() < 0.95 - leaving * (1 - stuck), (
        "so many points leave the frame"
    )
    plain = select_active_tracks(tracks, visible, 64)
    assert (plain.index >= 0).all(), "without compensation the background looks active"
    compensated = select_active_tracks(tracks, visible, 64, compensate_camera=True)
    assert (compensated.index == -1).all() and not compensated.visible.any()


@pytest.mark.parametrize("pan", [0.0, 0.02, 0.06])
def test_only_moving_points_are_selected_before_a_turning_head(pan):
    tracks, visible = head_turns(pan, n_moving=100, noise=0.002, stuck=0.1)
    found = select_active_tracks(tracks, visible, 64, compensate_camera=True)
    chosen = found.index[0][found.index[0] >= 0]
    assert len(chosen) > 40 and (chosen < 100).all()


@pytest.mark.parametrize("noise", [0.001, 0.002])
def test_a_trackers_noise_is_no_motion(noise):
    tracks, visible = scene(still, n_moving=5, t=16, noise=noise)
    as_in_the_paper = select_active_tracks(tracks, visible, 64, min_motion=0.0)
    assert (as_in_the_paper.motion[0] >= 0.03).sum() > 20, "paths of still points are long"
    found = select_active_tracks(tracks, visible, 64)
    assert set(found.index[0].tolist()) == {0, 1, 2, 3, 4, -1}


def test_points_that_return_are_active():
    swing = 0.1 * torch.sin(torch.linspace(0, math.pi, 9))
    tracks = torch.full((1, 9, 1, 2), 0.5)
    tracks[0, :, 0, 0] += swing
    visible = torch.ones(1, 9, 1, dtype=torch.bool)
    found = select_active_tracks(tracks, visible, 1, min_motion=0.09)
    assert found.index.item() == 0 and found.motion.item() == pytest.approx(0.2, rel=1e-4)
    assert select_active_tracks(tracks, visible, 1, min_motion=0.11).index.item() == -1


def test_homography_is_recovered_from_a_majority():
    before = lattice().double()
    h = torch.tensor(
        [[1.05, 0.02, 0.03], [-0.01, 0.97, -0.02], [0.05, -0.03, 1.0]], dtype=torch.float64
    )
    after = apply_homography(h, before)
    after[:50] += torch.tensor([0.15, -0.1])  # a third moves together: the hard kind of outlier
    seen = torch.ones(len(before), dtype=torch.bool)
    torch.testing.assert_close(camera_homographies(before, after, seen), h, atol=1e-4, rtol=0)


def test_few_points_leave_the_camera_still():
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
            length, reach, away = 0.0, 0.0, torch.zeros(2)
            for t in range(3):
                ends = [tracks[b, t, i], tracks[b, t + 1, i]]
                inside = all(bool((end >= 0).all() and (end < 1).all()) for end in ends)
                if visible[b, t, i] and visible[b, t + 1, i] and inside:
                    length += math.dist(ends[0].tolist(), ends[1].tolist())
                    away = away + ends[1] - ends[0]
                    reach = max(reach, away.norm().item())
            motion.append(length if reach >= 0.2 else -1.0)
        best = sorted((m, i) for i, m in enumerate(motion) if m >= 0)[::-1][:k]
        assert found.index[b].tolist() == [i for _, i in best] + [-1] * (k - len(best))
        torch.testing.assert_close(
            found.motion[b], torch.tensor([m for m, _ in best] + [0.0] * (k - len(best)))
        )
        for place, (_, i) in enumerate(best):
            assert torch.equal(found.tracks[b, :, place], tracks[b, :, i])
            inside = ((tracks[b, :, i] >= 0) & (tracks[b, :, i] < 1)).all(-1)
            assert torch.equal(found.visible[b, :, place], visible[b, :, i] & inside)
        assert not found.visible[b, :, len(best) :].any()


def test_cells_are_row_major_and_clamped():
    points = torch.tensor(
        [[0.0, 0.0], [0.99, 0.0], [0.0, 0.99], [0.3, 0.5], [1.0, 1.0], [-0.2, 2.0]]
    )
    assert cells_of(points, (3, 4)).tolist() == [0, 3, 8, 5, 11, 8]
