"""Videos as their clips are: at the clips' times, in their size, in [-1, 1]."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from model.value_range import ValueRange
from stages.frame_values import frames_to_images
from stages.scoring.reading import BadVideo, ReadVideo, read_video
from stages.scoring.resample import ClipTimes, clock_of, nearest_frames, to_clip_size
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

    def read(self, video: VideoFile) -> ReadVideo:
        """The video as it is. Raises BadVideo."""
        return read_video(video, self.value_range)

    def images(self, video: VideoFile) -> Float[Tensor, "t c h w"]:
        """Raises BadVideo."""
        name, read = str(video), self.read(video)
        clock = clock_of(read, self.times, self.video_rate_hz, name)
        frames = to_clip_size(read.frames[nearest_frames(clock, self.times, name)], self.size)
        try:
            return frames_to_images(frames, self.value_range, "frames")
        except ValueError as error:
            raise BadVideo(f"{name}: {error}") from error
