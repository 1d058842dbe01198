"""Frames of a video file by index, decoded with PyAV in one forward pass.

Only requested frames become RGB; groups of pictures without any are skipped. A file's own claims
(codec, rate, number of frames) are not trusted: frames are counted by their packets and have the
packets' times. What a container says about presentation counts: packets that its edit list hides
are no frames, and a video to be shown turned or mirrored is refused, since its intrinsics and depth
pictures may be those of either view.
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
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float32, Float64, Int64, Real, UInt8

from storage.sources.file_ref import FileRef, SourceError

# A seek to a key frame costs about as much as decoding so many frames (2 to 8 are alike)
SEEK_FRAMES = 6
BUFFER_BYTES = 1 << 20  # reads from a tar slice go through Python: fewer, larger ones
MAX_PIXELS = 1 << 25  # of a frame, 8K; a damaged header claims up to 65,535 x 65,535
# Playlists (ffconcat, HLS, SDP) are no videos: they make FFmpeg open other files
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"

av.logging.set_level(av.logging.PANIC)  # no lines on stderr: what matters is raised


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a full decode found. rate_hz: the mean from first to last frame."""

    n_frames: int
    rate_hz: float
    width: int
    height: int
    codec: str
    pixel_format: str


class Video:
    """An open video file, a context manager; frames are numbered from 0 in presentation order.

    times_s: each frame's presentation time, from the first frame's. key_frame: whether decoding can
    start there, or for the first frame at a hidden packet before it. start_s: the first frame's
    time in the file; above 0 where the recording began late. One thread decodes, since a worker has
    one CPU.

    Raises SourceError: `missing_file`; `no_video_file`, for a playlist or another kind of file;
    `corrupt_video`, on opening or on decoding; `turned_video`.
    """

    times_s: Float64[np.ndarray, " n"]
    key_frame: Bool[np.ndarray, " n"]
    start_s: float

    def __init__(self, source: FileRef | Path):
        self.source = source if isinstance(source, FileRef) else FileRef(path=source)
        self._file = self.source.open()
        try:
            # A plain path is read by FFmpeg itself, a slice of a tar through Python.
            place = self._file if self.source.member else str(self.source.path)
            options = {"format_whitelist": CONTAINERS}
            self._container = av.open(place, mode="r", buffer_size=BUFFER_BYTES, options=options)
        except Exception as error:
            start = self._file.read(8)
            self._file.close()
            if start.startswith((b"ffconcat", b"#EXT", b"v=0", b"<")):
                expected = "a video (mp4): write the frames themselves into one file"
                found = f"a text that begins with {start!r}, perhaps a list of other files"
                raise SourceError("no_video_file", self.source, found, expected) from error
            raise self._corrupt(error) from error
        # One for all frames: its tables cost more than converting a small frame.
        self._reformatter = VideoReformatter()
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
        """Lists the frames from the packets, without decoding (about 2 % of the cost)."""
        self._stream = self._picture_stream()
        found: list[tuple[int, bool]] = []
        hidden_keys: list[int | None] = []
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if packet.is_discard:  # hidden by an edit list, though frames may build on it
                    hidden_keys += [packet.pts] if packet.is_keyframe else []
                    continue
                if packet.pts is None or packet.is_corrupt:
                    state = "is damaged" if packet.is_corrupt else "has no time"
                    what = f"packet {len(found)} {state}"
                    raise SourceError("corrupt_video", self.source, what, "intact packets")
                found.append((packet.pts, packet.is_keyframe))
        except SourceError:
            raise
        except Exception as error:
            raise self._corrupt(error, f"after {len(found)} packets") from error
        found.sort()
        self._pts = np.array([pts for pts, _ in found], "int64")
        self._frame_of = {int(pts): frame for frame, pts in enumerate(self._pts)}
        self._starts = dict(zip(self._frame_of.values(), self._frame_of, strict=True))
        before = [pts for pts in hidden_keys if pts is not None and found and pts < found[0][0]]
        if not found or not (found[0][1] or before):
            what, expected = f"{len(found)} packets", "one or more, the first a key frame"
            raise SourceError("corrupt_video", self.source, what, expected)
        self.key_frame = np.array([key for _, key in found])
        if not self.key_frame[0]:
            self.key_frame[0], self._starts[0] = True, max(before)
        assert self._stream.time_base is not None, "a demuxed video stream has a time base"
        self.times_s = (self._pts - self._pts[0]) * float(self._stream.time_base)
        self.start_s = float(self._pts[0] * self._stream.time_base)

    def _picture_stream(self) -> av.VideoStream:
        """The first stream of moving pictures; a cover picture is none."""
        streams = [
            s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise SourceError("corrupt_video", self.source, "no video stream", "one")
        stream = streams[0]
        if stream.codec_context is None:  # pyright thinks that there always is one
            what = "pictures in a codec that is not known here"
            raise SourceError("corrupt_video", self.source, what, "H.264 or another known one")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        if stream.width * stream.height > MAX_PIXELS:
            what = f"pictures of {stream.width}x{stream.height} px"
            raise SourceError("corrupt_video", self.source, what, f"at most {MAX_PIXELS} pixels")
        return stream

    def frames(
        self, indices: Sequence[int] | Int64[np.ndarray, " n"], size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """RGB frames at `indices` (any order, repeats allowed), resized to `size` (height, width).

        Shrinking averages over each new pixel's area; enlarging is bilinear. A picture of another
        aspect ratio is squeezed, not cropped.
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
        """The wanted frames (rising), each decoded from the last one or from a nearer key frame."""
        keys = np.flatnonzero(self.key_frame)
        at, frames = -1, None
        for index in wanted:
            key = int(keys[np.searchsorted(keys, index, side="right") - 1])
            if frames is None or key > at + SEEK_FRAMES:
                frames = self._decode_from(key)
            which = f"frame {index} of {self.n_frames}"
            try:
                at, frame = next((i, frame) for i, frame in frames if i >= index)
            except StopIteration:
                raise self._corrupt("the decoder ended", f"before {which}") from None
            except SourceError:
                raise
            except Exception as error:
                raise self._corrupt(error, f"on the way to {which}") from error
            if at != index or frame.is_corrupt:
                what = f"frame {at}" if at != index else "a damaged picture"
                raise self._corrupt(what, f"in place of {which}")
            self._check_view(frame)
            yield index, frame

    def _check_view(self, frame: av.VideoFrame) -> None:
        """Raises SourceError for a frame that is to be shown turned, or that has another size."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(matrix, "int32")[:5]
        if b or c or a <= 0 or d <= 0:  # (x, y) is shown at (a x + c y, b x + d y)
            what = f"frames to be shown turned by {frame.rotation} degrees or mirrored"
            expected = "upright ones: `ffmpeg -i in.mp4 out.mp4` turns them (calibration and depth "
            expected += "must be those of the turned frames)"
            raise SourceError("turned_video", self.source, what, expected)
        if (frame.width, frame.height) != (self.width, self.height):
            what = f"a frame of {frame.width}x{frame.height} px"
            expected = f"{self.width}x{self.height} px as in the file's header"
            raise SourceError("corrupt_video", self.source, what, expected)

    def _decode_from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        self._container.seek(self._starts[key], stream=self._stream, backward=True)
        for frame in self._container.decode(self._stream):
            if frame.pts is None or frame.pts not in self._frame_of:
                raise ValueError(
                    f"the decoder gave a frame at time {frame.pts}, which no packet has"
                )
            yield self._frame_of[frame.pts], frame

    def info(self) -> VideoInfo:
        """Decodes everything (some 1,000 frames a second at 640x480).

        Raises SourceError if a frame is missing.
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
    """For each wanted time the index of the nearest of the rising `times`; of two, the earlier."""
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
    frame: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "..."] | Float32[np.ndarray, "..."]:
    """The frame at (height, width), by cv2: swscale's area filter is off by up to 60 levels.

    Shrinking averages over each new pixel's area; enlarging is bilinear.
    """
    if size is None or frame.shape[:2] == size:
        return frame
    shrinks = size[0] <= frame.shape[0] and size[1] <= frame.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(frame, size[::-1], interpolation=how)  # type: ignore
