import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clips.clip_times import (
    NS,
    clip_starts_ns,
    frame_times_ns,
    largest_gap_ns,
    period_ns,
    substep_rows,
)
from storage.sources.video import nearest

RATES = st.sampled_from([5.0, 10.0, 15.0, 29.986, 30.0])
START = 1_700_000_000_000_000_000


@st.composite
def clocks(draw) -> np.ndarray:
    """Timestamps of a source of some rate, 10 s or so, each up to 15 % of a period off."""
    rate = draw(RATES)
    n = draw(st.integers(int(9 * rate), int(12 * rate)))
    jitter = np.random.default_rng(draw(st.integers(0, 10**6))).uniform(-0.15, 0.15, n)
    return START + np.round(
        (np.arange(n) + draw(st.sampled_from([0, 1])) * jitter) * NS / rate
    ).astype("int64")


@given(times=clocks(), hop_s=st.sampled_from([0.5, 0.3, 2.0]))
def test_frames_are_the_nearest_rows_and_within_half_a_period(times, hop_s):
    starts = clip_starts_ns(times, 16, 2.0, hop_s)
    assert starts[0] == times[0] and (np.diff(starts) == round(hop_s * NS)).all()
    wanted = frame_times_ns(starts, 16, 2.0)
    rows = nearest(times, wanted.ravel()).reshape(wanted.shape)
    best = np.abs(times[None, None] - wanted[..., None]).min(-1)  # against all rows
    np.testing.assert_array_equal(np.abs(times[rows] - wanted), best)
    np.testing.assert_array_equal(largest_gap_ns(times, wanted), best.max(axis=1))
    assert (best <= 0.7 * period_ns(times)).all()  # half a period, and the jitter
    assert (np.diff(rows, axis=1) > 0).all()
    # One more clip would not fit
    assert wanted[-1, -1] + hop_s * NS > times[-1] + period_ns(times) // 2


def test_steps_do_not_drift_at_29_986_hz():
    times = START + np.round(np.arange(30_000) * NS / 29.986).astype("int64")
    starts = clip_starts_ns(times, 16, 2.0, 0.5)
    wanted = frame_times_ns(starts[-1:], 16, 2.0)[0]
    rows = nearest(times, wanted)
    assert np.abs(times[rows] - wanted).max() <= 0.51 * period_ns(times)
    assert abs(15 * len(starts) - rows[0]) > 5  # arithmetic on row numbers would be off by this


@pytest.mark.parametrize(("n", "clips"), [(225, 0), (226, 1), (240, 1), (241, 2), (10, 0)])
def test_a_clip_of_16_frames_at_2_hz_needs_226_rows_at_30_hz(n, clips):
    times = START + np.round(np.arange(n) * NS / 30).astype("int64")
    assert len(clip_starts_ns(times, 16, 2.0, 0.5)) == clips


def test_missing_rows_show_as_a_gap():
    times = START + np.round(np.arange(500) * NS / 30).astype("int64")
    holed = np.delete(times, slice(100, 110))
    wanted = frame_times_ns(clip_starts_ns(times, 16, 2.0, 0.5), 16, 2.0)
    gaps = largest_gap_ns(holed, wanted)
    spans_hole = (wanted == times[105]).any(axis=1)
    assert spans_hole.any() and not spans_hole.all()
    np.testing.assert_array_equal(gaps > period_ns(holed), spans_hole)


def rows_of_clip(times: np.ndarray, clip: int) -> np.ndarray:
    return nearest(times, frame_times_ns(clip_starts_ns(times, 16, 2.0, 0.5), 16, 2.0)[clip])


@given(
    times=clocks(),
    clip=st.integers(0, 2),
    n_substeps=st.sampled_from([1, 3, 15]),
    at_end=st.booleans(),
)
@settings(deadline=None)
def test_substeps_lie_between_the_frame_before_and_the_frame(times, clip, n_substeps, at_end):
    frames = rows_of_clip(times, clip)
    rows = substep_rows(times, frames, n_substeps, 2.0, at_end=at_end)
    assert rows.shape == (16, n_substeps)
    assert (rows >= 0).all() and (rows <= frames[:, None]).all()
    assert (rows[1:] >= frames[:-1, None]).all()
    assert (np.diff(rows, axis=1) >= 0).all()
    if at_end:
        np.testing.assert_array_equal(rows[:, -1], frames)  # the last state is what the frame shows
        assert (rows[1:] > frames[:-1, None]).all()
    else:
        # The first command is given at the frame before
        np.testing.assert_array_equal(rows[1:, 0], frames[:-1])
        assert (rows[1:] < frames[1:, None]).all()


def test_at_30_hz_the_substeps_are_the_source_rows():
    times = START + np.round(np.arange(300) * NS / 30).astype("int64")
    frames = rows_of_clip(times, 2)  # begins at row 30
    np.testing.assert_array_equal(
        substep_rows(times, frames, 15, 2.0, at_end=False), frames[:, None] - 15 + np.arange(15)
    )
    np.testing.assert_array_equal(
        substep_rows(times, frames, 15, 2.0, at_end=True), frames[:, None] - 14 + np.arange(15)
    )


def test_before_the_first_row_there_is_only_the_first_row():
    times = START + np.round(np.arange(300) * NS / 30).astype("int64")
    for at_end in (False, True):
        assert (substep_rows(times, rows_of_clip(times, 0), 15, 2.0, at_end=at_end)[0] == 0).all()


@pytest.mark.parametrize("rate", [5.0, 10.0, 15.0])
def test_slower_sources_are_resampled_evenly_between_frames(rate):
    times = START + np.round(np.arange(int(12 * rate)) * NS / rate).astype("int64")
    frames = rows_of_clip(times, 2)
    rows = substep_rows(times, frames, 15, 2.0, at_end=True)
    before = np.concatenate([[frames[0] - rate / 2], frames[:-1]])
    expected = before[:, None] + (frames - before)[:, None] * np.arange(1, 16) / 15
    np.testing.assert_allclose(rows, expected, atol=1e-6)
