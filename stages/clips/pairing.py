"""Which frames of a video and which rows of a file belong together: by number, unless times object.

Frame k was taken at row k as long as neither side has lost one. A camera that loses frames leaves a
hole in the video's own times, so the frames behind it have too low a number; a logger that loses
rows does the same to the rows. Clocks differ in rate and jitter, so only holes are compared.
"""

import numpy as np
from jaxtyping import Float64, Int64, Real

AROUND = 15  # numbers on either side of a hole that must agree that time was lost

ALIKE = 0.05  # share by which two counts of the same long pause may differ


def lost_before(times: Real[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many frames or rows are missing right before each, by the usual step between them.

    A late one whose successors are in time again was not lost: then the hole is made up for.
    """
    lost = np.zeros(len(times), "int64")
    if len(times) < 3:
        return lost
    steps, period = np.diff(times), usual_step(times)
    if period <= 0:
        return lost
    for k in np.flatnonzero(steps > 1.5 * period).tolist():
        # Steps are compared as if all were there; medians, so that jitter does not count
        late = (times - times[k]) / period - np.arange(len(times))
        first, end = max(0, k - AROUND + 1), min(len(times), k + 1 + AROUND)
        shift = np.median(late[k + 1 : end]) - np.median(late[first : k + 1])
        lost[k + 1] = max(0, round(float(shift)))
    return lost


def usual_step(times: Real[np.ndarray, " n"]) -> float:
    """The median time between neighbours; over several steps, among which jitter evens out."""
    lag = max(1, min(AROUND, len(times) // 4))
    return float(np.median((times[lag:] - times[:-lag]) / lag)) if len(times) > 1 else 0.0


def paired_until(
    frame_times_s: Float64[np.ndarray, " n"], start_s: float, row_times_ns: Int64[np.ndarray, " m"]
) -> tuple[int, str]:
    """(k, why): frames and rows from number k on do not belong together; all that there are if
    times do not object.

    start_s: time of the first frame in its file, above 0 if the recording began late.
    """
    n_frames, n_rows = len(frame_times_s), len(row_times_ns)
    n = min(n_frames, n_rows)
    in_video, in_rows = lost_before(frame_times_s), lost_before(row_times_ns)
    period = usual_step(frame_times_s)
    if n_frames < n_rows and period > 0 and round(start_s / period) == n_rows - n_frames:
        return 0, f"the video begins {start_s:.3f} s late and has {n_rows - n_frames} frames less"
    # A file of constant rate shows no holes. With as many frames as rows, or nearly, a long gap
    # between rows was a pause of both.
    if not in_video.any() and (n_frames == n_rows or in_rows.sum() > 2 * abs(n_frames - n_rows)):
        return n, ""
    # Of a long pause both sides count a few more or less, by their own clocks
    alike = np.abs(in_video[:n] - in_rows[:n]) <= ALIKE * np.maximum(in_video[:n], in_rows[:n])
    in_rows[:n][alike] = in_video[:n][alike]
    differ = np.flatnonzero(np.cumsum(in_video[:n]) != np.cumsum(in_rows[:n]))
    if not len(differ):
        return n, ""
    k = int(differ[0])
    sides = f"{in_video[k]} frames are lost there, by the video's times, and {in_rows[k]} rows"
    return k, f"before number {k} {sides}, by theirs"
