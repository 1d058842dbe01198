"""The grippers' paths: projected as the camera sees them, and the tracks that go along."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.agibot_writer import quaternions_xyzw
from stages.evaluation.gripper_path import (
    GRIPPER_M,
    gripper_paths,
    hand_axis,
    inside,
    is_followed,
    path_score,
    points_along,
)

SIZE = (128, 128)
LENS = np.float32([100, 110, 63.5, 60])


def looking_down(height_m: float, n: int) -> np.ndarray:
    """A camera above the base's origin: its x is the base's x, its y is -y, its z is down."""
    pose = np.float32([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, height_m]])
    return np.repeat(pose[None], n, axis=0)


def states_at(left: np.ndarray, right: np.ndarray, n_substeps: int = 3) -> np.ndarray:
    """Of flanges (t 3) whose hands point down: half a turn about x."""
    down = np.float32([1, 0, 0, 0])
    arms = [np.concatenate([at, np.tile(down, (len(at), 1)), np.zeros((len(at), 1))], axis=1)
            for at in (left, right)]  # fmt: skip
    last = np.concatenate(arms, axis=1).astype(np.float32)
    states = np.full((len(last), n_substeps, 16), 99, np.float32)
    states[:, -1] = last
    return states


def moving_path(n: int = 8) -> np.ndarray:
    return np.stack([np.linspace(40, 80, n), np.linspace(50, 60, n)], axis=1)


def test_a_gripper_is_seen_where_a_pinhole_camera_sees_it():
    left = np.array([[0.1, 0.2, 0.5], [0.0, -0.1, 0.6]])
    right = np.array([[-0.2, 0.0, 0.5], [0.3, 0.1, 2.5]])
    paths = gripper_paths(states_at(left, right), LENS, looking_down(2.0, 2))
    for arm, flanges in enumerate((left, right)):
        for t, (x, y, z) in enumerate(flanges):
            away = 2.0 - (z - GRIPPER_M)  # along the optical axis
            if away <= 0:
                assert np.isnan(paths[arm, t]).all()
                continue
            expected = (100 * x / away + 63.5, 110 * -y / away + 60)
            np.testing.assert_allclose(paths[arm, t], expected, atol=1e-3)


def test_without_calibration_there_is_no_path():
    n = 8
    states = states_at(np.zeros((n, 3)), np.zeros((n, 3)))
    for lens, pose in (
        (np.full(4, np.nan, np.float32), looking_down(2, n)),
        (LENS, np.full((n, 3, 4), np.nan, np.float32)),
    ):
        paths = gripper_paths(states, lens, pose)
        assert np.isnan(paths).all() and not inside(paths[0], SIZE).any()
        tracks = np.zeros((n, 5, 2), np.float32)
        along = points_along(paths[0], tracks, np.ones((n, 5), bool), SIZE)
        assert not along.any() and not is_followed(along)


@given(st.integers(0, 10_000))
def test_a_hands_axis_is_its_rotations_third_column(seed):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 2, 3, 3)))
    axes *= np.linalg.det(axes)[..., None, None]
    np.testing.assert_allclose(hand_axis(quaternions_xyzw(axes)), axes[..., 2], atol=1e-6)


def tracks_of(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tracks (t 10 2): four that go along with the path, three that stay near it, three far from
    it that move alike.
    """
    shift = path - path[0]
    starts = np.concatenate([path[0] + [[3, 0], [-3, 2], [0, 5], [6, 6]],
                             path[0] + [[4, 4], [-8, 0], [0, -9]],
                             path[0] + [[50, 30], [40, 40], [60, 0]]])  # fmt: skip
    tracks = np.repeat(starts[None], len(path), axis=0)
    tracks[:, :4] += shift[:, None]
    tracks[:, 7:] += shift[:, None]
    return tracks.astype(np.float32), np.ones(tracks.shape[:2], bool)


def test_points_along_start_near_the_gripper_and_move_as_it_does():
    path = moving_path()
    tracks, visible = tracks_of(path)
    along = points_along(path, tracks, visible, SIZE)
    assert along.tolist() == [True] * 4 + [False] * 6 and is_followed(along)
    visible[2:, 1] = False
    assert (
        points_along(path, tracks, visible, SIZE).tolist()
        == [True, False, True, True] + [False] * 6
    )


@pytest.mark.parametrize(
    "path",
    [
        np.repeat(moving_path()[:1], 8, axis=0),  # still
        moving_path() - [60, 0],  # starts outside
        moving_path() + np.arange(8)[:, None] * [40, 0],  # leaves at once
    ],
)
def test_a_gripper_that_stays_or_is_not_seen_has_no_points(path):
    tracks, visible = tracks_of(path)
    assert not points_along(path, tracks, visible, SIZE).any()


def test_a_path_scores_1_for_its_own_points_and_less_the_more_they_stray():
    path = moving_path()
    tracks, visible = tracks_of(path)
    along = points_along(path, tracks, visible, SIZE)
    assert path_score(path, tracks, along, SIZE) == pytest.approx(1, abs=1e-5)
    pace = np.linspace(0, 1, 8)[:, None, None]
    strays = [tracks + pace * np.float32([0, by]) for by in (0, 4, 16, 64)]
    scores = [path_score(path, each, along, SIZE) for each in strays]
    assert scores == sorted(scores, reverse=True) and scores[-1] < 0.2
    held = np.repeat(tracks[:1], 8, axis=0)
    assert path_score(path, held, along, SIZE) < scores[1]


def test_points_that_do_not_go_along_do_not_count():
    path = moving_path()
    tracks, visible = tracks_of(path)
    along = points_along(path, tracks, visible, SIZE)
    other = np.where(along[None, :, None], tracks, 0).astype(np.float32)
    assert path_score(path, other, along, SIZE) == path_score(path, tracks, along, SIZE)
