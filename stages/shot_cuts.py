"""Shot cuts, measured by PySceneDetect and decided here.

At 2 Hz an arm in front of the lens changes the picture as much as a cut does, so a clip's own frames only tell where to
look: between two of them that differ a lot, every source frame is compared. There a cut is one frame that differs from
the last one by a lot, or by clearly more than the frames around it do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.stats_manager import StatsManager

WINDOW = 5  # frames on either side that a frame's change is compared with
THUMBNAIL = (48, 64)  # height, width; noise and compression average out


@dataclass(frozen=True, kw_only=True)
class CutRule:
    """A frame begins a new shot if its change reaches `change`, or `sudden_change` and `ratio` times its neighbours'.

    Changes are PySceneDetect's content value of the brightness alone, 0..255. Its other parts, hue and saturation, are
    noise on grey tables and black grippers, and jump at key frames there. The numbers are ours: in 10 Hz video of
    simulated arms close to the lens changes reach 32 at 2.2 times their neighbours'; a fast zoom in a real one, which
    counts as a cut, 30 at 3.3 times.
    """

    change: float = 45.0
    sudden_change: float = 18.0
    ratio: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The frame that begins a new shot, by its place in the frames given."""

    frame: int
    change: float
    ratio: float


def changes(frames: Sequence[np.ndarray] | UInt8[np.ndarray, "t h w 3"]) -> Float64[np.ndarray, "t 2"]:
    """(content value, adaptive ratio) of each RGB frame against the one before, 0 for the first.

    The ratio is against the `WINDOW` frames on either side; the ends are repeated so that every frame has them.
    """
    if not len(frames):
        return np.zeros((0, 2))
    thumbnails = [cv2.resize(frame, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA) for frame in frames]
    padded = [thumbnails[0]] * WINDOW + thumbnails + [thumbnails[-1]] * WINDOW
    detector = AdaptiveDetector(window_width=WINDOW, luma_only=True)
    detector.stats_manager = StatsManager()
    keys = detector.get_metrics()
    times = [FrameTimecode(i, fps=30.0) for i in range(len(padded))]  # only their order counts
    for time, frame in zip(times, padded, strict=True):
        detector.process_frame(time, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))  # type: ignore[arg-type]
    wanted = [keys[0], keys[-1]]
    values = [detector.stats_manager.get_metrics(time, wanted) for time in times[WINDOW:-WINDOW]]
    return np.array([[value or 0.0 for value in pair] for pair in values], float)


def find_cut(
    frames: Sequence[np.ndarray] | UInt8[np.ndarray, "t h w 3"], rule: CutRule, among: slice = slice(None)
) -> Cut | None:
    """The clearest cut in successive frames at the source's own rate, if there is one.

    among: the frames that may be it; the others serve only for comparison.
    """
    change, ratio = changes(frames).T
    is_cut = np.zeros(len(change), bool)
    is_cut[among] = True
    is_cut &= (change >= rule.change) | ((change >= rule.sudden_change) & (ratio >= rule.ratio))
    if not is_cut.any():
        return None
    frame = int(np.where(is_cut, change, -1.0).argmax())
    return Cut(frame=frame, change=float(change[frame]), ratio=float(ratio[frame]))
