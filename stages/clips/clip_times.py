"""Which rows of a source are the frames of a clip, and the places of its commands between them.

Times are integer nanoseconds on the source's own clock. A frame is the row whose timestamp is
nearest to the wanted time (arithmetic on row numbers drifts: 30 Hz sources run at 29.986 Hz). That
row is at most one source period away, or the clip has a gap. So sources of any rate, from 5 to 30
Hz, are treated alike.
"""

import numpy as np
from jaxtyping import Float64, Int64

from storage.sources.video import nearest

NS = 1_000_000_000


def period_ns(timestamps_ns: Int64[np.ndarray, " n"]) -> int:
    """The source's usual time between rows: the median, so that a pause does not count."""
    return int(np.median(np.diff(timestamps_ns)))


def frame_times_ns(
    starts_ns: Int64[np.ndarray, " m"], n_frames: int, rate_hz: float
) -> Int64[np.ndarray, "m t"]:
    """The wanted times of the frames of clips that start at `starts_ns`."""
    return starts_ns[:, None] + np.round(np.arange(n_frames) * (NS / rate_hz)).astype("int64")


def clip_starts_ns(
    timestamps_ns: Int64[np.ndarray, " n"], n_frames: int, rate_hz: float, hop_s: float
) -> Int64[np.ndarray, " m"]:
    """Starts of clips every `hop_s` from the first row on, as long as the last frame is there.

    It may be late by half a source period. Clips share frames if they start a whole number of frame
    steps apart, so `hop_s` is best a multiple of `1 / rate_hz`. None starts inside of a gap that is
    longer than a clip: a clock that is set may jump by years.
    """
    span, hop = round((n_frames - 1) * NS / rate_hz), round(hop_s * NS)
    first, late = int(timestamps_ns[0]), period_ns(timestamps_ns) // 2
    parts = [np.zeros(0, "int64")]
    for begin, end in _without_long_gaps(timestamps_ns, span):
        earliest = -(-(int(timestamps_ns[begin]) - late - first) // hop)  # rounded up
        latest = (int(timestamps_ns[end - 1]) + late - span - first) // hop
        parts.append(np.arange(max(0, earliest), latest + 1, dtype="int64"))
    return first + np.concatenate(parts) * hop


def long_gaps(timestamps_ns: Int64[np.ndarray, " n"], span_ns: int) -> Int64[np.ndarray, " m"]:
    """Rows after which the clock goes on by more than a clip's span."""
    return np.flatnonzero(np.diff(timestamps_ns) > span_ns)


def _without_long_gaps(
    timestamps_ns: Int64[np.ndarray, " n"], span_ns: int
) -> list[tuple[int, int]]:
    """Rows [begin, end) of each part between such gaps."""
    ends = [*(long_gaps(timestamps_ns, span_ns) + 1).tolist(), len(timestamps_ns)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def largest_gap_ns(
    timestamps_ns: Int64[np.ndarray, " n"], wanted_ns: Int64[np.ndarray, "m t"]
) -> Int64[np.ndarray, " m"]:
    """How far a clip's rows are from its wanted times; above `period_ns` rows are missing."""
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
    """For each frame `n_substeps` fractional row numbers between the frame before and it.

    Spans are half open. `at_end=False` is for commands: those of [t-1, t), which are given from the
    frame before on and lead into frame t. `at_end=True` is for states: those of (t-1, t], so that
    the last one is what frame t shows. Where the source has just as many rows in the span, these
    rows are taken; otherwise the places are evenly spaced in time. The rows before frame 0 lead
    into it; before the source's first row that row is repeated.
    """
    # From the first row on: float64 would round times since 1970 to 256 ns
    clock = timestamps_ns - timestamps_ns[0]
    times = clock[frame_rows]
    before = int(times[0]) - round(NS / rate_hz)
    starts_ns = np.concatenate([[before], times[:-1]])
    row_before = int(nearest(clock, np.array([before]))[0]) if before >= 0 else -n_substeps
    start_rows = np.concatenate([[row_before], frame_rows[:-1]])
    steps = np.arange(n_substeps) + at_end
    between = starts_ns[:, None] + (times - starts_ns)[:, None] * steps / n_substeps
    resampled = np.interp(between, clock, np.arange(len(clock)))
    as_many = (start_rows >= 0) & (frame_rows - start_rows == n_substeps)
    return np.where(as_many[:, None], (start_rows[:, None] + steps).astype(float), resampled)
