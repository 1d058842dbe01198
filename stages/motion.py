"""How much moves in a clip, and whether it moves so that one can follow it: two thresholds on dense optical flow.

RoboScape drops clips without clear motion and with chaotic motion by their optical flow. The paper gives no numbers;
the ones in `stages/clip.py` are ours, set on simulated and a few real clips.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

FLOW_SIZE = 64  # px; noise is averaged out, and 0.1 px of flow is still 1/600 of the picture


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Means over the pairs of successive frames.

    fastest: 99th percentile of the flow's length, in picture widths per frame; sensor noise alone gives 0.001 to 0.003.
    whole: mean of the flow's length over all pixels, in the same unit; large where the camera itself is thrown about.
    unexplained: difference between a frame and its successor moved back along the flow, in grey levels; large where
    light flickers, pictures are damaged, or nothing corresponds.
    """

    fastest: float
    whole: float
    unexplained: float


def measure_motion(frames: UInt8[np.ndarray, "t h w 3"]) -> Motion:
    """Flow of Farneback (2003) between successive frames of RGB, two or more.

    (Dense inverse search, which is faster, sees motion of 0.04 widths in the noise of a blank wall.)
    """
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frames: motion needs two or more")
    grey = [cv2.cvtColor(_small(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    pairs = np.array([_of_pair(a, b) for a, b in pairwise(grey)])
    fastest, whole, unexplained = pairs.mean(axis=0).tolist()
    return Motion(fastest=fastest, whole=whole, unexplained=unexplained)


def _of_pair(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    scales = dict(pyr_scale=0.5, levels=4, winsize=11, iterations=3, poly_n=5, poly_sigma=1.1)
    flow = cv2.calcOpticalFlowFarneback(first, second, None, **scales, flags=0)  # type: ignore  # (h, w, 2), px
    length = np.linalg.norm(flow, axis=-1) / FLOW_SIZE
    back = cv2.remap(second, _grid() + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore
    unexplained = np.abs(back.astype(float) - first).mean()
    return float(np.percentile(length, 99)), float(length.mean()), float(unexplained)


def _grid() -> Float32[np.ndarray, "h w 2"]:
    y, x = np.mgrid[:FLOW_SIZE, :FLOW_SIZE].astype("float32")
    return np.stack([x, y], axis=-1)


def _small(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "64 64 3"]:
    return cv2.resize(frame, (FLOW_SIZE, FLOW_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
