"""How much moves in a clip, and whether that can be followed, by dense optical flow.

RoboScape drops clips without clear motion and with chaotic motion by their optical flow. The paper
gives no numbers; those in `stages/clips/clip_quality.py` are ours, set on simulated and a few real
clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

FLOW_SIZE = 64  # px; noise is averaged out, and 0.1 px of flow is still 1/600 of the picture


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The motion between two frames, or its mean over a clip's pairs of successive frames.

    fastest: 99th percentile of the flow's length, in picture widths per frame; sensor noise alone
    gives 0.001 to 0.003. whole: mean of the flow's length over all pixels, in the same unit; large
    where the camera itself is shaken. unexplained: difference between a frame and its successor
    warped back along the flow, in grey levels; large where light flickers, pictures are damaged, or
    nothing corresponds.
    """

    fastest: float
    whole: float
    unexplained: float


def mean_motion(pairs: Sequence[Motion]) -> Motion:
    """The motion of a clip, from its pairs of frames."""
    if not pairs:
        raise ValueError("no pair of frames: motion needs two frames or more")
    fastest, whole, unexplained = np.mean(
        [(p.fastest, p.whole, p.unexplained) for p in pairs], axis=0
    ).tolist()
    return Motion(fastest=fastest, whole=whole, unexplained=unexplained)


def pair_motion(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> Motion:
    """The motion from one RGB frame to the next, by the flow of Farneback (2003).

    Dense inverse search is faster, but sees motion of 0.04 widths in the noise of a blank wall.
    """
    a, b = (cv2.cvtColor(_small(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second))
    scales = dict(pyr_scale=0.5, levels=4, winsize=11, iterations=3, poly_n=5, poly_sigma=1.1)
    flow = cv2.calcOpticalFlowFarneback(a, b, None, **scales, flags=0)  # type: ignore  # (h, w, 2), px
    length = np.linalg.norm(flow, axis=-1) / FLOW_SIZE
    back = cv2.remap(b, _grid() + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore
    return Motion(
        fastest=float(np.percentile(length, 99)),
        whole=float(length.mean()),
        unexplained=float(np.abs(back.astype(float) - a).mean()),
    )


def _grid() -> Float32[np.ndarray, "h w 2"]:
    y, x = np.mgrid[:FLOW_SIZE, :FLOW_SIZE].astype("float32")
    return np.stack([x, y], axis=-1)


def _small(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "64 64 3"]:
    return cv2.resize(frame, (FLOW_SIZE, FLOW_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
