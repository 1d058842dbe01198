import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.sources.agibot.arms import (
    align_in_time,
    align_to,
    closed_fraction,
    filled,
    gripper_sense,
    is_zero,
    unit,
)

UNIT = st.floats(-1, 1, width=32)


@st.composite
def smooth_tracks(draw) -> np.ndarray:
    """Unit quaternions (n, 2, 4) that turn by less than a right angle from row to row."""
    n = draw(st.integers(2, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n, 2, 4)) * 0.1
    track = rng.normal(size=(1, 2, 4)) + np.cumsum(steps, axis=0)
    return unit(track)


@given(track=smooth_tracks(), seed=st.integers(0, 1000))
def test_signs_are_aligned_and_rotations_kept(track, seed):
    flips = np.where(np.random.default_rng(seed).random(track.shape[:2]) < 0.3, -1.0, 1.0)[
        ..., None
    ]
    aligned = align_in_time(track * flips)
    assert ((aligned[1:] * aligned[:-1]).sum(-1) >= 0).all()
    np.testing.assert_allclose(
        np.abs((aligned * track).sum(-1)), 1, atol=1e-12
    )  # the same rotations
    np.testing.assert_array_equal(aligned, align_in_time(track))  # whatever signs the file had
    np.testing.assert_array_equal(align_to(track * flips, aligned), aligned)


@given(q=arrays(float, (5, 2, 4), elements=UNIT))
def test_unit_makes_rotations_of_everything(q):
    made = unit(q)
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1)
    assert (made[is_zero(q)] == [0, 0, 0, 1]).all()


@given(data=st.data())
def test_filled_is_the_state_but_where_something_was_sent(data):
    n = data.draw(st.integers(1, 40))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), int)
    state = np.arange(n * 6.0).reshape(n, 2, 3)
    sent = -1.0 - np.arange(len(rows) * 6.0).reshape(len(rows), 2, 3)
    action = filled(state, rows, sent)
    by_row = dict(zip(rows.tolist(), sent, strict=True))
    for row in range(n):  # the slow way
        np.testing.assert_array_equal(action[row], by_row.get(row, state[row]))
    assert (state >= 0).all()  # the caller's array is as it was


@given(closed=arrays(float, (9, 2), elements=st.floats(0, 1)))
def test_every_unit_gives_the_same_fraction(closed):
    closed[0] = [0, 1]  # so that the range shows the unit
    np.testing.assert_allclose(closed_fraction(35 + 85 * closed), closed, atol=1e-12)
    np.testing.assert_allclose(closed_fraction(120 * closed), closed, atol=1e-12)
    np.testing.assert_array_equal(closed_fraction(closed), closed)
    np.testing.assert_allclose(
        closed_fraction(np.repeat(closed, 6, axis=1) * np.pi / 2), closed, atol=1e-12
    )


def test_readings_outside_the_range_are_cut_off():
    np.testing.assert_array_equal(
        closed_fraction(np.array([[34.8, 123.1], [40.0, 200.0]]))[:, 1], [1, 1]
    )
    assert closed_fraction(np.array([[34.8, 123.1]]))[0, 0] == 0


@given(seed=st.integers(0, 1000), lag=st.integers(0, 6), noise=st.floats(0, 0.1))
def test_the_sense_of_a_gripper_is_seen_through_lag_and_noise(seed, lag, noise):
    rng = np.random.default_rng(seed)
    commanded = np.repeat((rng.random((8, 2)) > 0.5) * 1.0, 30, axis=0)
    commanded[:30], commanded[-30:] = 0, 1
    measured = np.clip(
        np.roll(commanded, lag, axis=0) + rng.normal(0, noise, commanded.shape), 0, 1
    )
    assert gripper_sense(measured, commanded) == 1
    assert gripper_sense(1 - measured, commanded) == -1


@pytest.mark.parametrize(
    "measured", [np.zeros((50, 2)), np.full((50, 2), 0.3), np.zeros((1, 2)), np.zeros((0, 2))]
)
def test_a_gripper_at_rest_has_no_sense(measured):
    commanded = np.linspace(0, 1, 2 * len(measured)).reshape(-1, 2)
    assert gripper_sense(measured, commanded) is None


def test_unrelated_grippers_have_no_sense():
    t = np.arange(200)
    measured, commanded = np.sin(t)[:, None].repeat(2, 1), np.cos(t)[:, None].repeat(2, 1)
    assert gripper_sense(measured, commanded) is None
