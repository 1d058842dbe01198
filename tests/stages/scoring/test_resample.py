"""Which frame is shown when: the clip's times against a video's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.scoring.reading import BadVideo, of_frames
from stages.scoring.resample import (
    ClipTimes,
    Clock,
    clock_of,
    even_clock,
    given_clock,
    nearest_frames,
    to_clip_size,
)

CLIP = ClipTimes(n_frames=16, rate_hz=2.0)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=20))
def test_a_frame_is_shown_from_its_start_to_its_end(centiseconds):
    durations_s = np.array(centiseconds) / 100
    clock = even_clock(durations_s)
    ends_s = np.cumsum(durations_s)
    for time_s, frame in zip(clock.times_s, clock.shown, strict=True):
        start_s = ends_s[frame] - durations_s[frame]
        assert start_s - 1e-6 <= time_s < ends_s[frame] - 1e-6
    assert clock.times_s[-1] + clock.period_s == pytest.approx(ends_s[-1]) or len(clock.shown) == 1


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=12).filter(lambda c: np.gcd.reduce(c) == 1),
    st.sampled_from([2.0, 5.0, 8.0]),
)
def test_a_given_rate_counts_merged_frames_as_several(counts, rate_hz):
    """Whatever rate the file has."""
    clock = given_clock(np.array(counts) * 0.125, rate_hz)
    assert clock.shown.tolist() == np.repeat(np.arange(len(counts)), counts).tolist()
    assert clock.period_s == pytest.approx(1 / rate_hz)


def test_rounded_durations_are_one_frame_each():
    """8 Hz as a GIF has it, in hundredths of a second."""
    durations_s = np.array([0.12, 0.13] * 8)
    assert given_clock(durations_s, 2.0).matches(CLIP)


@given(st.floats(0.5, 60.0), st.integers(1, 400))
def test_the_nearest_frame_is_taken_or_the_video_is_too_short(rate_hz, n_frames):
    """Against a slow search; accepted videos reach the clip's end."""
    times_s = np.arange(n_frames) / rate_hz
    clock = Clock(times_s=times_s, shown=np.arange(n_frames))
    distances = [min(abs(t - s) for s in times_s) for t in CLIP.times_s]
    allowed = max(0.5, 1 / rate_hz if n_frames > 1 else 0.0) / 2
    if abs(max(distances) - allowed) < 2e-3:
        return
    if max(distances) > allowed:
        with pytest.raises(BadVideo, match=r"a\.mp4: found .* expected 16 frames at 2 Hz"):
            nearest_frames(clock, CLIP, "a.mp4")
        return
    chosen = nearest_frames(clock, CLIP, "a.mp4")
    for t, frame, distance in zip(CLIP.times_s, chosen, distances, strict=True):
        assert abs(times_s[frame] - t) == pytest.approx(distance, abs=1e-9)


def test_arrays_have_the_clips_times_if_they_have_its_number_of_frames():
    frames = np.zeros((16, 16, 16, 3), np.uint8)
    assert clock_of(of_frames(frames), CLIP, None, "a").matches(CLIP)
    assert clock_of(of_frames(frames), CLIP, 4.0, "a").period_s == 0.25
    with pytest.raises(BadVideo, match="--rate"):
        clock_of(of_frames(frames[:15]), CLIP, None, "a")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_shrinking_averages_areas_also_where_the_other_side_grows(dtype):
    """Means of 4 x 4 px against a slow loop; a checkerboard becomes grey."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 64, 64, 3)).astype(dtype)
    small = to_clip_size(frames, (16, 16))
    slow = frames.astype(float).reshape(2, 16, 4, 16, 4, 3).mean((2, 4))
    assert abs(small - slow).max() <= (0.5 if dtype == np.uint8 else 1e-3)
    board = np.indices((64, 8)).sum(0) % 2 * 255
    wide = np.broadcast_to(board[None, ..., None], (1, 64, 8, 3)).astype(dtype)
    mixed = to_clip_size(wide, (16, 16)).astype(float)
    assert mixed.shape == (1, 16, 16, 3) and abs(mixed - 127.5).max() <= 1
