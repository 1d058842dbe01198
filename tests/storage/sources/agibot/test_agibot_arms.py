import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.sources.agibot.arms import (
    align_in_time,
    align_to,
    filled,
    is_zero,
    known_position,
    unit,
    within_reach,
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
    return track / np.linalg.norm(track, axis=-1, keepdims=True)


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
def test_unit_makes_rotations_or_holes_of_everything(q):
    made = unit(q)
    length = np.linalg.norm(made, axis=-1)
    np.testing.assert_allclose(length[np.isfinite(length)], 1)
    lost, absent = is_zero(q), is_zero(q).all(0)
    assert np.isnan(made[lost & ~absent]).all()
    assert (made[:, absent] == [0, 0, 0, 1]).all()
    solid = np.abs(np.linalg.norm(q, axis=-1) - 1.25) < 0.74
    assert np.isfinite(made[solid]).all()


@pytest.mark.parametrize("lost", [0.0, np.nan, 1e-30, 1e30, np.inf])
def test_a_lost_rotation_costs_its_row_and_no_sign(lost):
    angle = np.linspace(0, 3, 40)  # to where the sign of q would change
    q = np.stack([0 * angle, 0 * angle, np.sin(angle), np.cos(angle)], -1)[:, None].repeat(2, 1)
    whole = align_in_time(unit(q))
    broken = q.copy()
    broken[10:13] = lost
    broken[13:] *= -1  # while the sensor was away
    made = align_in_time(unit(broken))
    assert np.isnan(made[10:13]).all()
    rest = np.r_[0:10, 13:40]
    sign = np.sign((made[0, 0] * whole[0, 0]).sum())  # the mean, which decides it, is another
    np.testing.assert_array_equal(made[rest], sign * whole[rest])
    aligned = align_to(-whole, made)  # commands have the state's sign, also beside its hole
    np.testing.assert_array_equal(aligned, sign * whole)


def test_positions_that_are_lost_or_out_of_reach_are_holes():
    hands = np.random.default_rng(0).normal(size=(20, 2, 3)) * 0.1 + 0.5
    np.testing.assert_array_equal(known_position(hands), hands)
    lost = hands.copy()
    lost[7, 0], lost[:, 1] = 0, 0  # one reading of one arm; the other arm is not there
    made = known_position(lost)
    assert np.isnan(made[7, 0]).all() and np.isfinite(np.delete(made[:, 0], 7, 0)).all()
    assert (made[:, 1] == 0).all()
    commands = hands + 0.2
    np.testing.assert_array_equal(within_reach(commands, hands), commands)
    commands[3, 1, 2] = 255.0
    hands[3] = np.nan
    hands[9] = 1e9  # one odd reading decides nothing
    made = within_reach(commands, hands)
    assert np.isnan(made[3, 1]).all() and np.isfinite(made).sum() == made.size - 3


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
