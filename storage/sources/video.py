"""Frames of a video file, by index or by time, decoded with PyAV in one forward pass.

Only what is asked for becomes RGB; whole groups of pictures that hold nothing asked for are jumped
over. What a file declares of itself (codec, rate, number of frames) is not believed: frames are
counted as the packets that are there, and their times are the packets' own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import av
import av.logging
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float64, Int64, Real, UInt8

from storage.sources.file_ref import FileRef, SourceError

# A jump to a key frame costs about as much as decoding so many frames (2 to 8 do alike)
SEEK_FRAMES = 6
BUFFER_BYTES = 1 << 20  # a read from a tar slice passes through Python: fewer, larger ones

av.logging.set_level(
    av.logging.PANIC
)  # FFmpeg's own lines on stderr; what matters of them is raised


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a full decode found. rate_hz is over the whole video, from first to last frame."""

    n_frames: int
    rate_hz: float
    width: int
    height: int
    codec: str
    pixel_format: str


class Video:
    """An open video file; frames are numbered from 0 in the order in which they are shown.

    times_s: each frame's presentation time, from the first frame's. key_frame: whether decoding may
    begin there. Use as a context manager. One thread decodes, so that a worker uses the one CPU
    that it was given.

    Raises SourceError: `missing_file`; `corrupt_video`, on opening or on decoding.
    """

    times_s: Float64[np.ndarray, " n"]
    key_frame: Bool[np.ndarray, " n"]

    def __init__(self, source: FileRef | Path):
        self.source = source if isinstance(source, FileRef) else FileRef(path=source)
        self._file = self.source.open()
        try:
            # A plain path is read by FFmpeg itself, a slice of a tar through Python.
            place = self._file if self.source.member else str(self.source.path)
            self._container = av.open(place, mode="r", buffer_size=BUFFER_BYTES)
        except (FFmpegError, ValueError) as error:
            self._file.close()
            raise self._corrupt(error) from error
        self._reformatter = (
            VideoReformatter()
        )  # one for all frames: making its tables costs more than a small frame
        try:
            self._read_packets()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()
        self._file.close()

    @property
    def n_frames(self) -> int:
        return len(self.times_s)

    @property
    def height(self) -> int:
        return self._stream.height

    @property
    def width(self) -> int:
        return self._stream.width

    def _read_packets(self) -> None:
        """Goes through the packets without decoding (about 2 % of the cost) to learn which frames
        there are.
        """
        if not self._container.streams.video:
            raise SourceError("corrupt_video", self.source, "no video stream", "one")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        found: list[tuple[int, bool]] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    if packet.pts is None or packet.is_corrupt:
                        what = "is damaged" if packet.is_corrupt else "has no time"
                        raise SourceError(
                            "corrupt_video",
                            self.source,
                            f"packet {len(found)} {what}",
                            "whole packets",
                        )
                    found.append((packet.pts, packet.is_keyframe))
        except FFmpegError as error:
            raise self._corrupt(error, f"after {len(found)} packets") from error
        found.sort()
        if not found or not found[0][1]:
            raise SourceError(
                "corrupt_video",
                self.source,
                f"{len(found)} packets",
                "one or more, the first a key frame",
            )
        self._pts = np.array([pts for pts, _ in found], "int64")
        self._frame_of = {int(pts): frame for frame, pts in enumerate(self._pts)}
        assert self._stream.time_base is not None, "a demuxed video stream has a time base"
        self.times_s = (self._pts - self._pts[0]) * float(self._stream.time_base)
        self.key_frame = np.array([key for _, key in found])

    def frames(
        self, indices: Sequence[int] | Int64[np.ndarray, " n"], size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """RGB frames at `indices` (any order, repeats allowed), resized to (height, width) if
        `size` is given.

        Shrinking averages the pixels under each new one (area); enlarging is bilinear. The picture
        is squeezed where the shape differs, not cropped.
        """
        wanted = sorted({int(i) for i in indices})
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.n_frames:
            span = f"frames {wanted[0]}..{wanted[-1]} asked for"
            raise SourceError("short_video", self.source, f"{self.n_frames} frames", span)
        decoded = {i: resized(self._to_rgb(frame), size) for i, frame in self._decode(wanted)}
        height, width = size or (self.height, self.width)
        empty = np.zeros((0, height, width, 3), "uint8")
        return np.stack([decoded[int(i)] for i in indices]) if wanted else empty

    def _to_rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        return self._reformatter.reformat(frame, format="rgb24").to_ndarray()

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames (rising): decodes on from one to the next, or from a later key frame if
        that is nearer.
        """
        keys = np.flatnonzero(self.key_frame)
        at, frames = -1, None
        for index in wanted:
            key = int(keys[np.searchsorted(keys, index, side="right") - 1])
            if frames is None or key > at + SEEK_FRAMES:
                frames = self._decode_from(key)
            try:
                at, frame = next((i, frame) for i, frame in frames if i >= index)
            except StopIteration:
                raise self._corrupt(
                    "the decoder ended", f"before frame {index} of {self.n_frames}"
                ) from None
            except (FFmpegError, ValueError) as error:
                raise self._corrupt(
                    error, f"on the way to frame {index} of {self.n_frames}"
                ) from error
            if at != index or frame.is_corrupt:
                what = f"frame {at}" if at != index else "a damaged picture"
                raise self._corrupt(what, f"in place of frame {index} of {self.n_frames}")
            yield index, frame

    def _decode_from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        self._container.seek(int(self._pts[key]), stream=self._stream, backward=True)
        for frame in self._container.decode(self._stream):
            if frame.pts is None or frame.pts not in self._frame_of:
                raise ValueError(
                    f"the decoder gave a frame at time {frame.pts}, which no packet has"
                )
            yield self._frame_of[frame.pts], frame

    def info(self) -> VideoInfo:
        """Decodes everything (some 1,000 frames a second at 640x480). Raises SourceError if a frame
        is missing.
        """
        _, last = deque(self._decode(list(range(self.n_frames))), maxlen=1)[0]
        span = float(self.times_s[-1])
        return VideoInfo(
            n_frames=self.n_frames,
            rate_hz=(self.n_frames - 1) / span if span else 0.0,
            width=last.width,
            height=last.height,
            codec=self._stream.codec_context.codec.canonical_name,
            pixel_format=last.format.name,
        )

    def _corrupt(self, error: Exception | str, where: str = "on opening") -> SourceError:
        return SourceError(
            "corrupt_video", self.source, f"{error} ({where})", "a video that decodes to its end"
        )


def nearest(
    times: Real[np.ndarray, " n"], wanted: Real[np.ndarray, " m"]
) -> Int64[np.ndarray, " m"]:
    """For each wanted time the index of the nearest of the rising `times`; the earlier of two as
    near.
    """
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    before = after - 1
    if len(times) == 1:
        return np.zeros(len(wanted), "int64")
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)


def probe(source: FileRef | Path) -> VideoInfo:
    """What a full decode finds, whatever the file's headers say."""
    with Video(source) as video:
        return video.info()


def resized(
    frame: UInt8[np.ndarray, "h w c"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "..."]:
    """To (height, width). cv2's area filter, as swscale's is off by up to 60 levels at edges when
    it also converts.
    """
    if size is None or frame.shape[:2] == size:
        return frame
    shrinks = size[0] <= frame.shape[0] and size[1] <= frame.shape[1]
    return cv2.resize(
        frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )  # type: ignore
