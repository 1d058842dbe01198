"""A video's file -> its frames and their times; what cannot be used is a `BadVideo` with a reason.

MP4 and its kin are decoded by `storage.sources.video`, which trusts packets and not headers. GIF
has a duration for each frame. NumPy's .npz and folders of pictures have no times.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped
from PIL import Image, ImageSequence, UnidentifiedImageError

from model.value_range import ValueRange
from stages.frame_values import require_pixels
from stages.scoring.videos import ANIMATIONS, ARRAYS, VideoFile, frame_files
from storage.disk_space import raise_if_disk_full
from storage.sources.file_ref import SourceError
from storage.sources.video import MAX_PIXELS, Video

MIN_SIDE_PX = 16  # below, nothing of a scene can be seen
ARRAY_NAMES = ("video", "frames", "rgb", "arr_0")  # in a .npz with several arrays
MODES = ("L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "1")  # 8 bits a channel


class BadVideo(ValueError):
    """A video that cannot be scored: the message names it, what was found and what was expected."""


@dataclass(frozen=True, kw_only=True)
class ReadVideo:
    """frames: uint8, or floats within the stated range.

    durations_s: how long each frame is shown; None if the file does not say.
    """

    frames: Shaped[np.ndarray, "t h w 3"]
    durations_s: Float64[np.ndarray, " t"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.frames.shape[1], self.frames.shape[2]


def read_video(video: VideoFile, value_range: ValueRange | None) -> ReadVideo:
    """All frames of the video. value_range: of float arrays. Raises BadVideo."""
    kind = video.path.suffix.lower()
    try:
        if video.path.is_dir():
            read = read_folder(video.path)
        elif kind in ARRAYS:
            read = read_array(video.path)
        elif kind in ANIMATIONS:
            read = read_gif(video.path)
        else:
            read = read_movie(video.path)
        require_size(*read.size)
        require_pixels(read.frames, value_range, "frames", such_as="--value-range 0 1")
    except (MemoryError, KeyboardInterrupt):
        raise
    except SourceError as error:
        raise BadVideo(f"{video}: found {error.found}; expected {error.expected}") from error
    except Exception as error:  # a damaged file makes libraries raise anything
        raise_if_disk_full(error)
        raise BadVideo(f"{video}: {error}") from error
    return read


def read_movie(path: Path) -> ReadVideo:
    """Its last frame is shown for as long as most are."""
    with Video(path) as video:
        require_size(video.height, video.width)
        frames, steps_s = video.frames(range(video.n_frames)), np.diff(video.times_s)
    if len(frames) < 2:
        return ReadVideo(frames=frames)
    return ReadVideo(frames=frames, durations_s=np.append(steps_s, np.median(steps_s)))


def read_gif(path: Path) -> ReadVideo:
    """A GIF may leave out the durations of its frames."""
    frames, durations_s = list[np.ndarray](), list[float]()
    with open_picture(path) as gif:
        for frame in ImageSequence.Iterator(gif):
            frames.append(np.asarray(frame.convert("RGB")))
            durations_s.append(frame.info.get("duration", 0) / 1000)
    known = len(frames) > 1 and min(durations_s) > 0
    return ReadVideo(frames=np.stack(frames), durations_s=np.array(durations_s) if known else None)


def read_array(path: Path) -> ReadVideo:
    """The array of a .npz: (frames, height, width, 3), or (frames, 3, height, width)."""
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        known = [name for name in ARRAY_NAMES if name in names]
        if len(names) != 1 and len(known) != 1:
            raise ValueError(
                f"found the arrays {names}, expected a single one, or one named "
                f"{' or '.join(ARRAY_NAMES)}"
            )
        frames = arrays[names[0] if len(names) == 1 else known[0]]
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[3] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"found an array of shape {frames.shape}, expected (frames, height, width, 3) or "
            "(frames, 3, height, width), in RGB"
        )
    return ReadVideo(frames=frames)


def read_folder(path: Path) -> ReadVideo:
    """The pictures of a folder, by the numbers in their names."""
    frames = []
    for file in frame_files(path):
        try:
            with open_picture(file) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
        except (ValueError, OSError, SyntaxError) as error:
            raise ValueError(f"{file.name}: {error}") from error
        if frames[-1].shape != frames[0].shape:
            (h, w, _), (first_h, first_w, _) = frames[-1].shape, frames[0].shape
            raise ValueError(
                f"{file.name} has {w} x {h} px, the first frame {first_w} x {first_h}: expected "
                "frames of one size"
            )
    return ReadVideo(frames=np.stack(frames))


def open_picture(path: Path) -> Image.Image:
    """Raises ValueError for what is no picture of 8 bits a channel, or a huge one."""
    try:
        picture = Image.open(path)
    except UnidentifiedImageError as error:
        raise ValueError("found no picture that can be read, expected PNG, JPEG or GIF") from error
    if picture.mode not in MODES:
        raise ValueError(f"found pixels of mode {picture.mode}, expected 8 bits a channel")
    require_size(picture.height, picture.width)
    return picture


def require_size(height: int, width: int) -> None:
    """Raises ValueError for frames too small to show anything, or too large to read."""
    if min(height, width) < MIN_SIDE_PX or height * width > MAX_PIXELS:
        raise ValueError(
            f"found frames of {width} x {height} px, expected sides of at least {MIN_SIDE_PX} px "
            f"and at most {MAX_PIXELS:,} pixels"
        )
