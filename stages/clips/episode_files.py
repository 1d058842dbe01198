"""One camera of an episode: its files, read and checked against each other for the stage `clip`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from stages.clips.pairing import paired_until
from stages.clips.recording_flags import FLAGS
from storage.sources.agibot.calibration import Intrinsics, read_extrinsics, read_intrinsics
from storage.sources.agibot.proprio import NOTES, Proprio, read_proprio
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.video import Video

assert set(NOTES) <= set(FLAGS), NOTES


@dataclass(frozen=True, kw_only=True)
class Recording:
    """n_frames: length of the shortest of video, rows and extrinsics; the others' tails are unused.

    n_paired: frames from here on are not on the rows of their number, and `unpaired` says why.
    video_size: (height, width). notes: which `FLAGS` are set.
    """

    n_frames: int
    n_paired: int
    unpaired: str
    video_size: tuple[int, int]
    proprio: Proprio
    intrinsics: Intrinsics | None
    extrinsics: Float64[np.ndarray, "n 3 4"] | None  # camera to base, for each frame
    notes: frozenset[str]

    @property
    def times_ns(self) -> Int64[np.ndarray, " n"]:
        return self.proprio.timestamps_ns[: self.n_frames]

    def intrinsics_for(self, size: tuple[int, int]) -> Float32[np.ndarray, "4"]:
        """(fx, fy, cx, cy) for frames resized to `size` (height, width); NaN if unknown."""
        if self.intrinsics is None:
            return np.full(4, np.nan, "float32")
        return resized_intrinsics(self.intrinsics, self.video_size, size)

    def extrinsics_at(self, rows: Int64[np.ndarray, " t"]) -> Float32[np.ndarray, "t 3 4"]:
        """[R | t] of these frames; NaN if unknown."""
        if self.extrinsics is None:
            return np.full((len(rows), 3, 4), np.nan, "float32")
        return self.extrinsics[rows].astype("float32")


def read_recording(
    video: Video,
    proprio: str,
    intrinsics: str,
    extrinsics: str,
    *,
    root: Path,
    max_count_difference: int,
) -> Recording:
    """The camera of an open video, from the files that the index names (empty: there is none).

    Raises SourceError for a file that cannot be read, and `count_mismatch` if the numbers of
    frames, rows and extrinsics differ by more than a few: some may then be missing anywhere.
    """

    def read(reader: Callable, text: str):
        return reader(FileRef.parse(text, root)) if text else None

    body = read_proprio(FileRef.parse(proprio, root))
    camera, poses = read(read_intrinsics, intrinsics), read(read_extrinsics, extrinsics)
    counts = {"video frames": video.n_frames, "rows": len(body.timestamps_ns)}
    if poses is not None:
        counts["extrinsics"] = len(poses)
    spread = max(counts.values()) - min(counts.values())
    if spread > max_count_difference:
        found = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise SourceError(
            "count_mismatch", video.source, found, f"a difference of at most {max_count_difference}"
        )
    n_paired, unpaired = paired_until(video.times_s, video.start_s, body.timestamps_ns)
    irregular = {
        "hand_effector": body.effector == "hand",
        "count_mismatch": spread > 0,
        "no_intrinsics": camera is None,
        "no_extrinsics": poses is None,
    }
    return Recording(
        n_frames=min(counts.values()),
        n_paired=n_paired,
        unpaired=unpaired,
        video_size=(video.height, video.width),
        proprio=body,
        intrinsics=camera,
        extrinsics=poses,
        notes=frozenset(body.notes) | {note for note, found in irregular.items() if found},
    )


def resized_intrinsics(
    camera: Intrinsics, size: tuple[int, int], new_size: tuple[int, int]
) -> Float32[np.ndarray, "4"]:
    """(fx, fy, cx, cy) after a resize from `size` to `new_size`, both (height, width).

    (0, 0) is the centre of the top-left pixel, so centres are shifted by half a pixel, too.
    """
    sy, sx = new_size[0] / size[0], new_size[1] / size[1]
    centre = (camera.cx + 0.5) * sx - 0.5, (camera.cy + 0.5) * sy - 0.5
    return np.array([camera.fx * sx, camera.fy * sy, *centre], "float32")
