"""A video of any rate, length and size -> the frames at a clip's times, in the clip's size.

Time starts at the first frame, which is the given one. For each of the clip's times the nearest
frame is taken, never a mean of two: a mean would blur what moves, and be scored for it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from stages.scoring.reading import BadVideo, OpenVideo
from storage.sources.video import nearest, resized

SAME_S = 1e-3  # the times of a container are rounded
CENTISECOND_S = 0.0101  # to which a GIF's durations are rounded
MAX_STEPS = 100  # of the shortest frame
ROUNDED_S = 2e-3  # and durations that differ by less are the same


@dataclass(frozen=True, kw_only=True)
class ClipTimes:
    n_frames: int
    rate_hz: float

    @property
    def times_s(self) -> Float64[np.ndarray, " t"]:
        return np.arange(self.n_frames) / self.rate_hz

    def __str__(self) -> str:
        return f"{self.n_frames} frames at {self.rate_hz:g} Hz, up to {self.times_s[-1]:.2f} s"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The times in s at which a video shows something, evenly apart, and which frame each shows."""

    times_s: Float64[np.ndarray, " n"]
    shown: Int64[np.ndarray, " n"]

    @property
    def period_s(self) -> float:
        """0 for a single time."""
        n = len(self.times_s)
        return float(self.times_s[-1] - self.times_s[0]) / (n - 1) if n > 1 else 0.0

    @property
    def is_even(self) -> bool:
        """Whether all frames are shown for the same time."""
        return len(np.unique(self.shown)) == len(self.shown)

    def matches(self, clip: ClipTimes) -> bool:
        """Whether it has the clip's times, one for one."""
        n = len(self.times_s)
        return n == clip.n_frames and bool(abs(self.times_s - clip.times_s).max() <= SAME_S)

    def __str__(self) -> str:
        rate = f" at {1 / self.period_s:.4g} Hz" if len(self.times_s) > 1 else ""
        return f"{len(self.times_s)} frames{rate}, up to {self.times_s[-1]:.2f} s"


def clock_of(video: OpenVideo, clip: ClipTimes, rate_hz: float | None, name: str) -> Clock:
    """By `rate_hz` if it is given, or by the video's own durations.

    A video without durations, such as an array, has the clip's times if it has as many frames.
    Raises BadVideo if it has another number and no rate is given.
    """
    n, durations_s = video.n_frames, video.durations_s
    one_by_one = np.arange(n)
    if durations_s is not None:
        return even_clock(durations_s) if rate_hz is None else given_clock(durations_s, rate_hz)
    if rate_hz is not None:
        return Clock(times_s=one_by_one / rate_hz, shown=one_by_one)
    if n == clip.n_frames:
        return Clock(times_s=clip.times_s, shown=one_by_one)
    raise BadVideo(
        f"{name}: found {n} frames without a rate, expected {clip}; say with --rate how many of "
        "its frames are a second"
    )


def even_clock(durations_s: Float64[np.ndarray, " t"]) -> Clock:
    """Frames of different durations at each step of a common clock.

    Writers leave out a frame that equals the one before it, which is shown for longer then.
    """
    n = len(durations_s)
    if np.ptp(durations_s) <= ROUNDED_S:
        return Clock(times_s=np.arange(n) * durations_s.mean(), shown=np.arange(n))
    durations_ms = np.maximum(1, np.round(durations_s * 1000)).astype(np.int64)
    step_ms = int(np.gcd.reduce(durations_ms))
    shown = np.repeat(np.arange(n), durations_ms // step_ms)
    return Clock(times_s=np.arange(len(shown)) * step_ms / 1000, shown=shown)


def given_clock(durations_s: Float64[np.ndarray, " t"], rate_hz: float) -> Clock:
    """A longer frame counts as several."""
    shown = np.repeat(np.arange(len(durations_s)), steps_of(durations_s))
    return Clock(times_s=np.arange(len(shown)) / rate_hz, shown=shown)


def steps_of(durations_s: Float64[np.ndarray, " t"]) -> Int64[np.ndarray, " t"]:
    """Each duration in the longest step of which all of them are made up, but for rounding."""
    shortest_s = durations_s.min()
    for k in range(1, MAX_STEPS):
        counts = np.round(durations_s * k / shortest_s)
        if abs(durations_s - counts * shortest_s / k).max() <= CENTISECOND_S:
            return counts.astype(np.int64)
    return np.maximum(1, np.round(durations_s / shortest_s)).astype(np.int64)


def nearest_frames(clock: Clock, clip: ClipTimes, name: str) -> Int64[np.ndarray, " t"]:
    """For each of the clip's times the number of the nearest frame; of two, the earlier.

    Raises BadVideo if the video ends before the clip does: if a frame is further from its time than
    half the frame period of the slower of the two.
    """
    wanted = clip.times_s
    places = nearest(clock.times_s, wanted)
    gap = float(abs(clock.times_s[places] - wanted).max())
    if gap <= max(1 / clip.rate_hz, clock.period_s) / 2 + SAME_S:
        return clock.shown[places]
    found = f"{name}: found {clock}, expected {clip}"
    if len(clock.times_s) == clip.n_frames:
        raise BadVideo(
            f"{found}. If its frames are the clip's, one for one: --rate {clip.rate_hz:g}"
        )
    raise BadVideo(f"{found}; give a video that is as long, or its true rate with --rate")


def to_clip_size(
    frames: Shaped[np.ndarray, "t h w 3"], size: tuple[int, int]
) -> Shaped[np.ndarray, "t i j 3"]:
    """The frames at (height, width): shrinking averages areas, enlarging is bilinear.

    Another aspect ratio is squeezed, as the clips' own frames were.
    """
    if frames.dtype != np.uint8:
        frames = frames.astype(np.float32)
    # Where one side shrinks and the other grows, the shrinking comes first
    smaller = (min(size[0], frames.shape[1]), min(size[1], frames.shape[2]))
    return np.stack([resized(resized(frame, smaller), size) for frame in frames])
