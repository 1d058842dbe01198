import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.clips.pairing import lost_before, paired_until

NS = 1_000_000_000


def regular(numbers: np.ndarray, jitter: float = 0.0, rate_hz: float = 30.0) -> np.ndarray:
    """Times in s of what was taken at these numbers."""
    noise = np.random.default_rng(0).uniform(-jitter, jitter, len(numbers))
    return (numbers + noise) / rate_hz


def paired(frames: np.ndarray, rows: np.ndarray, start_s: float = 0.0) -> int:
    times_ns = np.round(rows * NS).astype("int64") + 1_700_000_000 * NS
    return paired_until(frames - frames[0], start_s, times_ns)[0]


@given(at=st.integers(20, 80), n=st.integers(1, 10), jitter=st.floats(0, 0.25))
def test_a_hole_is_found_where_it_is(at, n, jitter):
    numbers = np.arange(100) + (np.arange(100) >= at) * n
    expected = np.where(np.arange(100) == at, n, 0)
    np.testing.assert_array_equal(lost_before(regular(numbers, jitter)), expected)


def test_a_late_frame_among_punctual_ones_is_not_a_hole():
    times = regular(np.arange(100))
    times[40:43] += [0.03, 0.025, 0.02]  # a burst catches up
    assert not lost_before(times).any()
    assert not lost_before(np.array([0.0, 5.0])).any() and not lost_before(np.zeros(9)).any()


ALL = np.arange(360)
CASES = {
    "sound": (ALL, ALL, 360),
    "another rate and drift": (ALL, ALL * 1.0007, 360),
    "frames lost in the middle": (np.delete(ALL, [90, 91, 92]), ALL, 90),
    "as many lost in the middle as come later": (np.delete(np.arange(363), [90, 91, 92]), ALL, 90),
    "rows lost in the middle": (ALL, np.delete(ALL, [200, 201]), 200),
    "both paused": (ALL + 90 * (ALL > 99), ALL + 90 * (ALL > 99), 360),
    "both paused, by clocks that differ": (ALL + 90 * (ALL > 99), ALL + 92 * (ALL > 99), 360),
    "both paused, and the file has a constant rate": (ALL, ALL + 90 * (ALL > 99), 360),
    "the same, and the last frame is missing": (ALL[:-1], ALL + 90 * (ALL > 99), 359),
    "the tail is missing": (ALL[:-3], ALL, 357),
}


@pytest.mark.parametrize("case", CASES)
def test_times_decide_where_they_object(case):
    frames, rows, expected = CASES[case]
    assert paired(frames / 30, rows / 30) == expected


def test_a_video_that_begins_late_lacks_its_first_frames():
    assert paired(ALL[3:] / 30, ALL / 30, start_s=0.1) == 0
    assert paired(ALL[:-3] / 30, ALL / 30, start_s=0.0) == 357
    assert paired(ALL / 30, ALL / 30, start_s=0.0667) == 360  # as B-frames without an edit list
