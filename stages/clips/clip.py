"""Index row -> clip: 16 RGB frames at 2 Hz, commands and states between them, and the camera.

Paper, Sec. 3.1. A whole shard is made in one call. Its clips are grouped by episode; each episode's
files are read once, and its video is decoded once for all its clips, which mostly share frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval
from jaxtyping import Int64

from stages.base import Arrays, ClipFunction, ClipInputs, ClipStage, Inputs, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.clips.arm_vectors import ARM_VECTOR, arm_vectors
from stages.clips.clip_quality import SCORES, Quality, find_cuts, reject_cut, score
from stages.clips.clip_times import frame_times_ns, largest_gap_ns, period_ns, substep_rows
from stages.clips.decoded_frames import Reel
from stages.clips.episode_files import Recording, read_recording
from stages.clips.recording_flags import DOUBTS, FLAGS, recording_flags
from stages.flag_counts import check_share, check_share_field
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.video import Video, nearest
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec


@dataclass(frozen=True, kw_only=True)
class Clip(ClipStage):
    """action_substeps: 30 Hz rows between two frames at 2 Hz."""

    root: str = field(metadata={"key": False})  # where the data set is; the index says what it is
    clip_format: ClipFormat = field(
        default=ClipFormat(), metadata={"key": ("n_frames", "rate_hz", "size")}
    )
    action_substeps: Annotated[int, Interval(ge=1, le=10_000)] = 15
    quality: Quality = field(default_factory=Quality)
    # Of the clips that may have a flag of doubt (`stages.flags`); more fail the run
    max_flagged_share: Annotated[float, Interval(ge=0, le=1)] = field(
        default=1.0, metadata={"key": False}
    )

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {
        "discover": (
            "start_ns",
            "n_frames",
            "rate_hz",
            "video",
            "proprio",
            "intrinsics",
            "extrinsics",
        )
    }
    resources: ClassVar[Resources] = Resources(memory_gb=1.5, clips_per_shard=32, clips_per_call=32)

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        f = self.clip_format
        t, i, a = f.n_frames, self.action_substeps, len(ARM_VECTOR)
        vector = "both arms' flange m and quaternion xyzw in the base frame, "
        vector += f"gripper 0 open .. 1 closed: {', '.join(ARM_VECTOR)}"
        commands = f"commands evenly spaced in [t-1, t), so leading into frame t: {vector}"
        states = f"measured evenly spaced in (t-1, t], the last at frame t: {vector}"
        lens = "fx, fy, cx, cy; pixels are those of `rgb`, (0, 0) the centre of the top-left one; "
        lens += "NaN where unknown"
        pose, row = "[R | t] camera to base; or NaN", "frame of the video, row of the HDF5 file"
        image, substeps, nan = (t, f.size, f.size, 3), ("t", "i", "a"), np.nan
        scores = ", ".join(SCORES)
        return (
            ArraySpec("rgb", "uint8", ("t", "h", "w", "c"), image, "sRGB", "frames", "zstd"),
            ArraySpec("frame_index", "int64", ("t",), (t,), "1", row, fill=-1),
            ArraySpec(
                "frame_time_ns", "int64", ("t",), (t,), "ns", "the source's own clock", fill=-1
            ),
            ArraySpec("actions", "float32", substeps, (t, i, a), "m, 1", commands),
            ArraySpec("states", "float32", substeps, (t, i, a), "m, 1", states),
            ArraySpec("intrinsics", "float32", ("i",), (4,), "px", lens, fill=nan),
            ArraySpec("extrinsics", "float32", ("t", "i", "j"), (t, 3, 4), "m", pose, fill=nan),
            ArraySpec("flags", "bool", ("i",), (len(FLAGS),), "1", ", ".join(FLAGS)),
            ArraySpec("scores", "float32", ("i",), (len(SCORES),), "1", scores, fill=-1.0),
        )

    def __post_init__(self) -> None:
        check_share_field("clip.max_flagged_share", self.max_flagged_share)

    def check_made(self, own: Rows) -> None:
        if self.max_flagged_share >= 1:
            return
        rows, setting = np.flatnonzero(own.ok), "clip.max_flagged_share"
        flags = recording_flags(own, rows).items()
        doubts = {name: has for name, has in flags if name in DOUBTS}
        check_share(doubts, len(rows), self.max_flagged_share, str(own.ref), setting)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        return self.make_clips

    def make_clips(self, clips: Sequence[ClipInputs]) -> list[Arrays | Rejected]:
        """The clips of a shard; those of one episode must be neighbours to share its files."""
        names = ("video", "proprio", "intrinsics", "extrinsics")
        made: list[Arrays | Rejected] = []
        for refs, group in groupby(clips, lambda clip: tuple(str(clip.arrays[n]) for n in names)):
            same_episode = list(group)
            for clip in same_episode:
                self._check_index(clip)
            starts_ns = [int(clip.arrays["start_ns"]) for clip in same_episode]
            made += self._from_episode(refs, starts_ns)
        return made

    def _from_episode(
        self, refs: tuple[str, ...], starts_ns: Sequence[int]
    ) -> list[Arrays | Rejected]:
        root = Path(self.root)
        try:
            with Video(FileRef.parse(refs[0], root)) as video:
                most = self.quality.max_count_difference
                recording = read_recording(video, *refs[1:], root=root, max_count_difference=most)
                return cut_clips(video, recording, np.array(starts_ns), self)
        except SourceError as fault:
            # The damage may be in one clip only, so each is tried by itself
            if fault.reason == "corrupt_video" and len(starts_ns) > 1:
                return [made for start in starts_ns for made in self._from_episode(refs, [start])]
            detail = f"{fault.item}: found {fault.found}; expected {fault.expected}"
            return [Rejected(fault.reason, detail) for _ in starts_ns]

    def _check_index(self, clip: ClipInputs) -> None:
        n_frames, rate_hz = int(clip.arrays["n_frames"]), float(clip.arrays["rate_hz"])
        wanted = self.clip_format
        if (n_frames, rate_hz) != (wanted.n_frames, wanted.rate_hz):
            raise ValueError(
                f"clip {clip.clip_id}: the index was made for {n_frames} frames at {rate_hz:g} Hz, "
                f"stage 'clip' is set to {wanted}; give `discover` and `clip` the same clip_format"
            )


def cut_clips(
    video: Video, recording: Recording, starts_ns: Int64[np.ndarray, " m"], config: Clip
) -> list[Arrays | Rejected]:
    """The clips of one episode and camera that start at `starts_ns`, or why each is rejected.

    Raises SourceError where the video is damaged.
    """
    f = config.clip_format
    times, period = recording.times_ns, period_ns(recording.times_ns)
    # The rows of all clips; the frames of those without a gap are decoded at once
    wanted = frame_times_ns(starts_ns, f.n_frames, f.rate_hz)
    rows = nearest(times, wanted.ravel()).reshape(wanted.shape)  # (m, t)
    gaps = largest_gap_ns(times, wanted)
    reel = Reel(video, rows[gaps <= period].ravel(), (f.size, f.size))
    cuts = find_cuts(reel, rows[gaps <= period], config.quality.cut)
    made: list[Arrays | Rejected] = []
    for clip_rows, gap in zip(rows, gaps, strict=True):
        try:
            if gap > period:
                found = f"a frame {gap / 1e6:.0f} ms from its time"
                found += f"; {recording.n_frames} frames can be used"
                found += f", expected at most {period / 1e6:.0f} ms"
                raise Rejected("time_gap", found)
            if clip_rows[-1] >= recording.n_paired:
                raise Rejected("lost_frames", f"{recording.unpaired}; the clip ends behind it")
            reject_cut(cuts, clip_rows)
            made.append(make_clip(reel, clip_rows, recording, config))
        except Rejected as rejected:
            made.append(rejected)
    return made


def make_clip(
    reel: Reel, rows: Int64[np.ndarray, " t"], recording: Recording, config: Clip
) -> Arrays:
    """The arrays of one clip. Raises Rejected: `no_calibration`, `nan_proprio`, or as `score`."""
    f, missing = config.clip_format, recording.notes & {"no_intrinsics", "no_extrinsics"}
    if config.quality.require_calibration and missing:
        raise Rejected(
            "no_calibration", "intrinsics or extrinsics are missing, and this run requires them"
        )
    # Commands lead into a frame, states end with it
    times, state, action = recording.times_ns, recording.proprio.state, recording.proprio.action
    tracks = {}
    for name, track, at_end in (("actions", action, False), ("states", state, True)):
        places = substep_rows(times, rows, config.action_substeps, f.rate_hz, at_end=at_end)
        tracks[name] = arm_vectors(track.position, track.quaternion, track.closed, places)
        bad = int((~np.isfinite(tracks[name])).sum())
        if bad:
            raise Rejected(
                "nan_proprio", f"{bad} of {tracks[name].size} numbers in {name} are NaN or infinite"
            )
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    return {
        "rgb": reel.rgb(rows),
        "frame_index": rows,
        "frame_time_ns": times[rows],
        **tracks,
        "intrinsics": recording.intrinsics_for((f.size, f.size)),
        "extrinsics": recording.extrinsics_at(rows),
        "flags": np.array([flag in recording.notes for flag in FLAGS]),
        "scores": score(
            reel.motion(rows),
            times[span],
            state.position[span],
            state.quaternion[span],
            config.quality,
        ),
    }
