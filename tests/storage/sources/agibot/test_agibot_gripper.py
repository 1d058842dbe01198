import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.sources.agibot.gripper import closed_fraction, gripper_sense

OPENINGS = arrays(float, (9, 2), elements=st.floats(0, 1))
UNITS = {"35..120": lambda c: 35 + 85 * c, "0..120": lambda c: 120 * c, "0..1": lambda c: c}


def moving(knots: np.ndarray) -> np.ndarray:
    """Closed fractions that pass through the knots in 20 rows each, after a whole closing."""
    knots = np.concatenate([[[0.0, 1.0], [1.0, 0.0]], knots])
    places = np.linspace(0, len(knots) - 1, 20 * (len(knots) - 1) + 1)
    return np.stack([np.interp(places, np.arange(len(knots)), arm) for arm in knots.T], -1)


@given(knots=OPENINGS)
def test_every_unit_gives_the_same_fraction(knots):
    closed = moving(knots)
    np.testing.assert_allclose(closed_fraction(35 + 85 * closed), closed, atol=1e-12)
    np.testing.assert_allclose(closed_fraction(120 * closed), closed, atol=1e-12)
    np.testing.assert_array_equal(closed_fraction(closed), closed)
    np.testing.assert_allclose(
        closed_fraction(np.repeat(closed, 6, axis=1) * np.pi / 2), closed, atol=1e-12
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("lost", [np.nan, np.inf, -1.0, 0.0, 2.0, 10.0, 120.0, 255.0, 65535.0])
@pytest.mark.parametrize("rows", [[0], [90], [-1], [50, 130]])
def test_an_odd_reading_costs_its_row_and_no_other(unit, lost, rows):
    closed = moving(np.random.default_rng(1).random((9, 2)))
    raw = UNITS[unit](closed)
    raw[rows] = lost
    made = closed_fraction(raw)
    rest = np.delete(np.arange(len(raw)), rows)
    np.testing.assert_allclose(made[rest], closed[rest], atol=1e-12)
    # What the unit cannot have is a hole; what it can have looks like any other reading
    possible = {"35..120": [120.0], "0..120": [0.0, 2.0, 10.0, 120.0, -1.0], "0..1": [0.0]}
    assert np.isnan(made[rows]).all() == (lost not in possible[unit])


@pytest.mark.parametrize(
    ("unit", "lost"), [("35..120", 0.0), ("35..120", 255.0), ("0..1", 255.0), ("0..1", 65535.0)]
)
def test_a_burst_of_lost_readings_is_a_hole(unit, lost):
    closed = moving(np.random.default_rng(3).random((20, 2)))
    raw = UNITS[unit](closed)
    raw[100:140] = lost
    made = closed_fraction(raw)
    assert np.isnan(made[100:140]).all()
    np.testing.assert_allclose(np.delete(made, np.s_[100:140], 0),
                               np.delete(closed, np.s_[100:140], 0), atol=1e-12)  # fmt: skip


def test_a_gripper_that_mostly_rests_open_is_no_fraction():
    closed = np.zeros((600, 2))
    closed[300:340, 0] = np.sin(np.linspace(0, np.pi, 40))  # one short grasp in 20 s
    np.testing.assert_allclose(closed_fraction(120 * closed), closed, atol=1e-12)


def test_an_arm_without_a_gripper_reads_zero_and_has_no_say():
    raw = 35 + 85 * moving(np.random.default_rng(0).random((9, 2)))
    alone = raw.copy()
    alone[:, 1] = 0
    alone[17, 1] = 255.0
    made = closed_fraction(alone)
    np.testing.assert_array_equal(made[:, 0], closed_fraction(raw)[:, 0])
    assert np.isnan(made[17, 1]) and (np.delete(made[:, 1], 17) == 0).all()


@pytest.mark.parametrize("raw", [
    1000 * moving(np.full((9, 2), 0.5)) + 400,  # steps of a motor
    np.where(np.arange(100)[:, None] % 2, 0.5, 60.0).repeat(2, 1),  # two units in one file
    np.full((50, 12), 80.0),  # a hand in degrees
])  # fmt: skip
def test_readings_of_no_unit_are_refused(raw):
    with pytest.raises(ValueError, match="readings"):
        closed_fraction(raw)


def test_a_finger_that_was_lost_is_a_hole():
    raw = np.full((50, 12), 0.7)
    raw[20, 3], raw[30, 8] = 255.0, np.nan
    made = closed_fraction(raw)
    assert np.argwhere(np.isnan(made)).tolist() == [[20, 0], [30, 1]]


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


def test_the_sense_is_seen_beside_lost_readings():
    commanded = moving(np.random.default_rng(0).random((9, 2)))
    measured = 1 - commanded
    measured[5, 0], commanded[9, 1] = np.nan, np.nan
    assert gripper_sense(measured, commanded) == -1
    measured[:, 0] = np.nan
    assert gripper_sense(measured, commanded) is None


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
