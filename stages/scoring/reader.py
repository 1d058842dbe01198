"""Videos as their clips are: at the clips' times, in their size, in [-1, 1]."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from model.value_range import ValueRange
from stages.frame_values import pixels_to_images, require_pixels
from stages.scoring.reading import OpenVideo, faults_of, open_video
from stages.scoring.resample import ClipTimes, Clock, clock_of, nearest_frames, to_clip_size
from stages.scoring.videos import VideoFile
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class VideoReader:
    """clips: whose times and size count, at `rate_hz`.

    video_rate_hz: of the videos, in place of what they say. value_range: of videos in floats.
    """

    clips: Rows
    rate_hz: float
    video_rate_hz: float | None = None
    value_range: ValueRange | None = None

    @property
    def times(self) -> ClipTimes:
        return ClipTimes(n_frames=self.clips.spec("rgb").shape[0], rate_hz=self.rate_hz)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.clips.spec("rgb").shape[1], self.clips.spec("rgb").shape[2]

    def frames(self, video: VideoFile) -> tuple[Shaped[np.ndarray, "t h w 3"], str]:
        """The frames at the clips' times, and what the video has, in words.

        Those that are needed are decoded and checked, no others. Raises BadVideo.
        """
        with faults_of(video):
            opened = open_video(video)
            clock = clock_of(opened, self.times, self.video_rate_hz, str(video))
            frames = opened.take(nearest_frames(clock, self.times, str(video)))
            require_pixels(frames, self.value_range, "frames", such_as="--value-range 0 1")
        return frames, self.kind(opened, clock)

    def kind(self, opened: OpenVideo, clock: Clock) -> str:
        height, width = opened.size
        pace = f"at {1 / clock.period_s:.4g} Hz" if clock.is_even else "of different durations"
        text = f"{opened.n_frames} frames of {width} x {height} px {pace}, {opened.dtype}"
        return text if clock.matches(self.times) else f"{text}, resampled to the clip's times"

    def images(self, video: VideoFile) -> Float[Tensor, "t c h w"]:
        """Raises BadVideo."""
        frames, _ = self.frames(video)
        # Checked before they shrink, as means of areas may leave out what told their range
        return pixels_to_images(to_clip_size(frames, self.size), self.value_range)
