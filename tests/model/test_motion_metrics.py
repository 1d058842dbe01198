"""Metrics of motion against slow versions in plain loops, and the laws they obey."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.motion_metrics import (
    NEAR_PX,
    normalised_warping,
    track_error,
    track_within,
    warping_distance,
)

SIZE = (96, 128)  # height, width


def tracks(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and true tracks of two clips, and which of their points count."""
    noise = torch.Generator().manual_seed(seed)
    true = torch.rand(2, 5, 7, 2, generator=noise) * 90
    found = true + 3 * torch.randn(true.shape, generator=noise)
    return found, true, torch.rand(2, 5, 7, generator=noise) < 0.6


def test_errors_of_tracks_agree_with_a_plain_loop():
    found, true, counted = tracks()
    error, within = (score(found, true, counted, SIZE) for score in (track_error, track_within))
    for b in range(2):
        distances = []
        for t, p in product(range(5), range(7)):
            if counted[b, t, p]:
                dx = (found[b, t, p, 0] - true[b, t, p, 0]).item() * 256 / 128
                dy = (found[b, t, p, 1] - true[b, t, p, 1]).item() * 256 / 96
                distances.append(math.sqrt(dx * dx + dy * dy))
        near = sum(distance < NEAR_PX for distance in distances)
        assert error[b].item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)
        assert within[b].item() == pytest.approx(near / len(distances))
        assert 0 < near < len(distances)


def test_true_tracks_have_no_error_and_points_that_do_not_count_none_either():
    _, true, counted = tracks()
    assert track_error(true, true, counted, SIZE).tolist() == [0, 0]
    assert track_within(true, true, counted, SIZE).tolist() == [1, 1]
    lost = torch.where(counted[..., None], true, torch.nan)
    assert track_error(lost, true, counted, SIZE).tolist() == [0, 0]
    assert track_within(lost, true, counted, SIZE).tolist() == [1, 1]


def test_more_noise_is_worse():
    _, true, counted = tracks()
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    levels = [true + level * noise for level in (0.5, 1, 2, 4, 8)]
    error = torch.stack([track_error(x, true, counted, SIZE) for x in levels])
    within = torch.stack([track_within(x, true, counted, SIZE) for x in levels])
    assert (error.diff(dim=0) > 0).all() and (within.diff(dim=0) <= 0).all()
    assert within[0].min() > within[-1].max()


def test_the_size_of_the_frames_does_not_matter():
    found, true, counted = tracks()
    twice = track_error(2 * found, 2 * true, counted, (192, 256))
    torch.testing.assert_close(twice, track_error(found, true, counted, SIZE))


def test_tracks_that_have_no_error_to_measure_are_refused():
    found, true, counted = tracks()
    counted[1] = False
    with pytest.raises(ValueError, match="clip 1 of the batch: no point is counted"):
        track_error(found, true, counted, SIZE)
    with pytest.raises(ValueError, match=r"expected pixels .* not shares"):
        track_within(found / 128, true / 128, ~torch.zeros_like(counted), SIZE)


def slow_warping(path: list, other: list) -> float:
    """The best of all alignments, by trying them all."""
    here = math.dist(path[-1], other[-1])
    before = []
    if len(path) > 1:
        before.append(slow_warping(path[:-1], other))
    if len(other) > 1:
        before.append(slow_warping(path, other[:-1]))
    if len(path) > 1 and len(other) > 1:
        before.append(slow_warping(path[:-1], other[:-1]))
    return here + min(before, default=0.0)


paths = st.lists(
    st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=5
)


@given(path=paths, other=paths)
def test_warping_agrees_with_trying_every_alignment(path, other):
    one, two = torch.tensor(path), torch.tensor(other)
    assert warping_distance(one, two) == pytest.approx(slow_warping(path, other), abs=1e-6)
    assert warping_distance(two, one) == pytest.approx(warping_distance(one, two), abs=1e-6)
    expected = math.exp(-slow_warping(path, other) / (len(other) * 4))
    assert normalised_warping(one, two, 4.0) == pytest.approx(expected, abs=1e-6)


@given(path=paths, repeats=st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_the_pace_of_a_path_does_not_matter(path, repeats):
    slower = [point for point, n in zip(path, repeats, strict=False) for _ in range(n)]
    assert warping_distance(torch.tensor(slower), torch.tensor(path)) == 0
    assert normalised_warping(torch.tensor(slower), torch.tensor(path), 4.0) == 1


def test_a_path_that_is_farther_away_scores_less():
    line = torch.stack([torch.linspace(0, 50, 16), torch.zeros(16)], dim=1)
    away = [line + torch.tensor([0.0, by]) for by in (0, 2, 8, 16, 64)]
    scores = [normalised_warping(path, line, 16.0) for path in away]
    assert scores == sorted(scores, reverse=True) and scores[0] == 1
    assert scores[3] == pytest.approx(math.exp(-1))


def test_empty_paths_and_tolerances_of_0_are_refused():
    path = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="paths of 0 and 3 points"):
        warping_distance(path[:0], path)
    with pytest.raises(ValueError, match="tolerance=0: expected above 0"):
        normalised_warping(path, path, 0.0)
