"""A video's file -> its frames and their times; what cannot be used is a `BadVideo` with a reason.

MP4 and its kin are decoded by `storage.sources.video`, which trusts packets and not headers. GIF
has a duration for each frame. NumPy's .npz and folders of pictures have no times.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8
from PIL import Image, ImageSequence, UnidentifiedImageError

from stages.scoring.videos import ANIMATIONS, ARRAYS, VideoFile, frame_files
from storage.disk_space import raise_if_disk_full
from storage.sources.file_ref import SourceError
from storage.sources.video import MAX_PIXELS, Video

MIN_SIDE_PX = 16  # below, nothing of a scene can be seen
ARRAY_NAMES = ("video", "frames", "rgb", "arr_0")  # in a .npz with several arrays
MODES = ("L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "1")  # 8 bits a channel
# Of damaged files: NumPy on .npz (TokenError and zlib's, NotImplementedError and RuntimeError for
# kinds of zip), Pillow on pictures (IndexError and struct's)
LIBRARIES_RAISE = (
    OSError,
    ValueError,
    EOFError,
    IndexError,
    SyntaxError,
    OverflowError,
    RuntimeError,
    TokenError,
    BadZipFile,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BadVideo(ValueError):
    """A video that cannot be scored: the message names it, what was found and what was expected."""


@dataclass(frozen=True, kw_only=True)
class OpenVideo:
    """A video whose frames are decoded when asked for: long ones are never whole in memory.

    size: (height, width) in px. take: the frames of these numbers, uint8 or any other kind of
    number; raises what a damaged file makes libraries raise. durations_s: how long each frame is
    shown; None if the file does not say.
    """

    n_frames: int
    size: tuple[int, int]
    dtype: str
    take: Callable[[Int64[np.ndarray, " i"]], Shaped[np.ndarray, "i h w 3"]]
    durations_s: Float64[np.ndarray, " t"] | None = None


@contextmanager
def faults_of(video: VideoFile) -> Iterator[None]:
    """Raises BadVideo, which names the video, for what its file makes libraries raise.

    Other errors are ours, and no fault of the video: they pass.
    """
    try:
        yield
    except BadVideo:
        raise
    except SourceError as error:
        raise BadVideo(f"{video}: found {error.found}; expected {error.expected}") from error
    except LIBRARIES_RAISE as error:
        raise_if_disk_full(error)
        raise BadVideo(f"{video}: {error}") from error


def open_video(video: VideoFile) -> OpenVideo:
    """Raises whatever a damaged file makes libraries raise: call it within `faults_of`."""
    kind = video.path.suffix.lower()
    if video.path.is_dir():
        return open_folder(video.path)
    if kind in ARRAYS:
        return open_array(video.path)
    return open_gif(video.path) if kind in ANIMATIONS else open_movie(video.path)


def open_movie(path: Path) -> OpenVideo:
    """Its last frame is shown for as long as most are."""

    def take(numbers: Int64[np.ndarray, " i"]) -> UInt8[np.ndarray, "i h w 3"]:
        with Video(path) as video:
            return video.frames(numbers)

    with Video(path) as video:
        size, times_s = (video.height, video.width), video.times_s
    require_size(*size)
    steps_s = np.diff(times_s)
    return OpenVideo(
        n_frames=len(times_s),
        size=size,
        dtype="uint8",
        take=take,
        durations_s=np.append(steps_s, np.median(steps_s)) if len(steps_s) else None,
    )


def open_gif(path: Path) -> OpenVideo:
    """A GIF may leave out the durations of its frames."""
    frames, durations_s = list[np.ndarray](), list[float]()
    with open_picture(path) as gif:
        for frame in ImageSequence.Iterator(gif):
            frames.append(np.asarray(frame.convert("RGB")))
            durations_s.append(frame.info.get("duration", 0) / 1000)
    known = len(frames) > 1 and min(durations_s) > 0
    return of_frames(np.stack(frames), np.array(durations_s) if known else None)


def open_array(path: Path) -> OpenVideo:
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
    return of_frames(frames)


def of_frames(
    frames: Shaped[np.ndarray, "t h w 3"], durations_s: Float64[np.ndarray, " t"] | None = None
) -> OpenVideo:
    size = (frames.shape[1], frames.shape[2])
    require_size(*size)
    return OpenVideo(
        n_frames=len(frames),
        size=size,
        dtype=str(frames.dtype),
        take=lambda numbers: frames[numbers],
        durations_s=durations_s,
    )


def open_folder(path: Path) -> OpenVideo:
    """The pictures of a folder, by the numbers in their names."""
    files, sizes = frame_files(path), list[tuple[int, int]]()

    def take(numbers: Int64[np.ndarray, " i"]) -> UInt8[np.ndarray, "i h w 3"]:
        frames = []
        for number in numbers:
            with naming(files[number]), open_picture(files[number]) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
        return np.stack(frames)

    for file in files:
        with naming(file), open_picture(file) as picture:
            sizes.append((picture.height, picture.width))
        if sizes[-1] != sizes[0]:
            (h, w), (first_h, first_w) = sizes[-1], sizes[0]
            raise ValueError(
                f"{file.name} has {w} x {h} px, the first frame {first_w} x {first_h}: expected "
                "frames of one size"
            )
    return OpenVideo(n_frames=len(files), size=sizes[0], dtype="uint8", take=take)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Raises ValueError, which names the picture, for one that cannot be read."""
    try:
        yield
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"{file.name}: {error}") from error


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
