"""Which rows of a source, whatever its rate, are the frames of a clip, and where between them its commands lie.

Times are integer nanoseconds on the source's own clock. A frame is the row whose timestamp is nearest to the wanted
time (arithmetic on row numbers drifts: 30 Hz sources run at 29.986 Hz); a row lies at most one source period away from
it, or the clip has a gap. So sources of 30, 15, 10 and 5 Hz go one way.
"""

import numpy as np
from jaxtyping import Float64, Int64

from storage.video import nearest

NS = 1_000_000_000


def period_ns(timestamps_ns: Int64[np.ndarray, " n"]) -> int:
    """The source's usual time between rows: the median, so that a pause does not count."""
    return int(np.median(np.diff(timestamps_ns)))


def frame_times_ns(starts_ns: Int64[np.ndarray, " m"], n_frames: int, rate_hz: float) -> Int64[np.ndarray, "m t"]:
    """The wanted times of the frames of clips that start at `starts_ns`."""
    return starts_ns[:, None] + np.round(np.arange(n_frames) * (NS / rate_hz)).astype("int64")


def clip_starts_ns(
    timestamps_ns: Int64[np.ndarray, " n"], n_frames: int, rate_hz: float, hop_s: float
) -> Int64[np.ndarray, " m"]:
    """Starts every `hop_s` from the first row on, as long as the last frame is there (half a source period allowed).

    Starts a whole number of frame steps apart share their frames, so `hop_s` is best a multiple of `1 / rate_hz`.
    """
    span = round((n_frames - 1) * NS / rate_hz)
    last = int(timestamps_ns[-1]) + period_ns(timestamps_ns) // 2 - span
    n_clips = max(0, (last - int(timestamps_ns[0])) // round(hop_s * NS) + 1)
    return timestamps_ns[0] + np.arange(n_clips, dtype="int64") * round(hop_s * NS)


def largest_gap_ns(
    timestamps_ns: Int64[np.ndarray, " n"], wanted_ns: Int64[np.ndarray, "m t"]
) -> Int64[np.ndarray, " m"]:
    """How far a clip's rows lie from its wanted times, at most. More than `period_ns` means rows are missing."""
    rows = nearest(timestamps_ns, wanted_ns.ravel()).reshape(wanted_ns.shape)
    return np.abs(timestamps_ns[rows] - wanted_ns).max(axis=1)


def substep_rows(
    timestamps_ns: Int64[np.ndarray, " n"],
    frame_rows: Int64[np.ndarray, " t"],
    n_substeps: int,
    rate_hz: float,
    *,
    at_end: bool,
) -> Float64[np.ndarray, "t i"]:
    """For each frame the `n_substeps` places, as fractional row numbers, between the frame before and it.

    Spans are half open. `at_end=False` is for commands: those of [t-1, t), which are given from the frame before on and
    lead into frame t. `at_end=True` is for states: those of (t-1, t], so that the last one is what frame t shows.
    Where the source has just as many rows in the span they are taken as they are; otherwise the places are evenly
    spaced in time. Before frame 0 lie the rows that lead into it, and before the source's first row there is only it.
    """
    times = timestamps_ns[frame_rows]
    before = int(times[0]) - round(NS / rate_hz)
    starts_ns = np.concatenate([[before], times[:-1]])
    first_row = nearest(timestamps_ns, np.array([before])) if before >= timestamps_ns[0] else frame_rows[:1] * 0 - 1
    start_rows = np.concatenate([first_row, frame_rows[:-1]])
    steps = np.arange(n_substeps) + at_end
    rows = start_rows[:, None] + steps.astype(float)
    share = steps / n_substeps
    between = starts_ns[:, None] + share * (times - starts_ns)[:, None]
    resampled = np.interp(between, timestamps_ns, np.arange(len(timestamps_ns)))
    as_they_are = (start_rows >= 0) & (frame_rows - start_rows == n_substeps)
    return np.where(as_they_are[:, None], rows, resampled)
