"""Shot cuts: where the picture changes suddenly and most of it does, as PySceneDetect measures it.

At 2 Hz an arm in front of the lens changes the picture as much as a cut does. So a clip's own
frames only say where to look: between two of them that differ a lot, every source frame is compared
with the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Float64, Int64, UInt8
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.stats_manager import StatsManager

WINDOW = 5  # frames on either side that a frame's change is compared with
THUMBNAIL = (48, 64)  # height, width; noise and compression average out
CHANGED = 12  # grey levels by which a pixel of the thumbnail has changed


@dataclass(frozen=True, kw_only=True)
class CutRule:
    """A frame begins a new shot if its mean change reaches `change` and `ratio` times that of the
    frames around it, and at least `share` of its pixels have changed.

    The numbers are ours. Share: in video of simulated arms close to the lens, at only 4 Hz, it
    never passes 0.58 in 7,000 frames (and the mean change reaches 56 of 255, 7 times its
    neighbours'); in a real video's zoom, which counts as a cut, it is 0.68. Ratio: a camera that
    turns changes everything, but in all frames alike.
    """

    change: Annotated[float, Ge(0)] = 15.0
    ratio: Annotated[float, Ge(0)] = 3.0
    share: Annotated[float, Interval(ge=0, le=1)] = 0.6


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How much each frame differs from the one before; 0 for the first.

    mean: PySceneDetect's content value of the brightness, 0..255. (Its other parts, hue and
    saturation, are noise on grey tables and black grippers, and jump at key frames there.) ratio:
    its adaptive ratio, mean over that of the `WINDOW` frames on either side. share: pixels whose
    brightness has changed.
    """

    mean: Float64[np.ndarray, " t"]
    ratio: Float64[np.ndarray, " t"]
    share: Float64[np.ndarray, " t"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The frame that begins a new shot, as an index into the frames given."""

    frame: int
    change: float
    ratio: float
    share: float


def measure_changes(frames: Sequence[np.ndarray] | UInt8[np.ndarray, "t h w 3"]) -> Changes:
    """The changes between successive RGB frames; the ends are repeated to compare them, too."""
    if not len(frames):
        return Changes(mean=np.zeros(0), ratio=np.zeros(0), share=np.zeros(0))
    thumbnails = [
        cv2.resize(frame, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA) for frame in frames
    ]
    detector = AdaptiveDetector(window_width=WINDOW, luma_only=True)
    detector.stats_manager = StatsManager()
    padded = [thumbnails[0]] * WINDOW + thumbnails + [thumbnails[-1]] * WINDOW
    times = [FrameTimecode(i, fps=30.0) for i in range(len(padded))]  # only their order counts
    for time, frame in zip(times, padded, strict=True):
        detector.process_frame(time, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))  # type: ignore[arg-type]
    names = [detector.get_metrics()[0], detector.get_metrics()[-1]]
    found = [detector.stats_manager.get_metrics(time, names) for time in times[WINDOW:-WINDOW]]
    mean, ratio = np.array([[value or 0.0 for value in pair] for pair in found], float).T
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in thumbnails]).astype(int)
    share = (np.abs(np.diff(grey, axis=0)) > CHANGED).mean((1, 2))
    return Changes(mean=mean, ratio=ratio, share=np.concatenate([[0.0], share]))


def maybe_cuts(frames: UInt8[np.ndarray, "t h w 3"], rule: CutRule) -> Int64[np.ndarray, " n"]:
    """Which of a clip's own frames differ so much from the one before that a cut is likely."""
    found = measure_changes(frames)
    return np.flatnonzero((found.mean >= 0.7 * rule.change) & (found.share >= 0.7 * rule.share))


def find_cut(
    frames: Sequence[np.ndarray] | UInt8[np.ndarray, "t h w 3"],
    rule: CutRule,
    among: slice = slice(None),
) -> Cut | None:
    """The clearest cut in successive frames at the source's own rate, if there is one.

    among: frames that may begin the new shot; the others serve only for comparison.
    """
    found = measure_changes(frames)
    is_cut = np.zeros(len(frames), bool)
    is_cut[among] = True
    is_cut &= (
        (found.mean >= rule.change) & (found.ratio >= rule.ratio) & (found.share >= rule.share)
    )
    if not is_cut.any():
        return None
    at = int(np.where(is_cut, found.mean, -1.0).argmax())
    return Cut(
        frame=at,
        change=float(found.mean[at]),
        ratio=float(found.ratio[at]),
        share=float(found.share[at]),
    )
