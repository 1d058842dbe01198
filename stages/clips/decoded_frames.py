"""The frames of all clips of one episode: each decoded once, each pair's motion measured once."""

from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt8

from stages.clips.motion import Motion, mean_motion, pair_motion
from storage.sources.video import Video


class Reel:
    """Frames of a video by their numbers, in memory."""

    def __init__(self, video: Video, rows: Int64[np.ndarray, " n"], size: tuple[int, int]):
        """rows: the frames that will be needed. Raises SourceError if one cannot be decoded."""
        self.video = video
        self.rows = np.unique(rows)
        self.frames = video.frames(self.rows, size)
        self._motions: dict[tuple[int, int], Motion] = {}

    def rgb(self, rows: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        return self.frames[np.searchsorted(self.rows, rows)]

    def motion(self, rows: Int64[np.ndarray, " t"]) -> Motion:
        """The motion of a clip with these frames."""
        return mean_motion([self._pair(int(a), int(b)) for a, b in pairwise(rows)])

    def _pair(self, first: int, second: int) -> Motion:
        if (first, second) not in self._motions:
            a, b = self.rgb(np.array([first, second]))
            self._motions[first, second] = pair_motion(a, b)
        return self._motions[first, second]
