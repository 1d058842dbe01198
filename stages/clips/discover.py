"""Episodes -> clip index: the clips that an AGIBOT-World root gives, and what is left out and why.

Nothing is decoded here; times come from each episode's `timestamp`. Clips are cut from the whole
episode, not from its labelled segments (most are shorter than a clip), and carry the texts and
skills of the segments that they overlap.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Interval, MinLen
from jaxtyping import Int64

from stages.base import DatasetStage, InputResults, InputRows, Inputs, Progress
from stages.clip_format import ClipFormat
from stages.clips.clip_times import (
    NS,
    clip_starts_ns,
    frame_times_ns,
    largest_gap_ns,
    long_gaps,
    period_ns,
)
from stages.clips.splits import assign_splits
from storage.sources.agibot.proprio import ProprioHeader, read_proprio_header
from storage.sources.agibot.task_info import EpisodeInfo
from storage.sources.agibot.tree import Episode, list_episodes, source_files
from storage.sources.file_ref import FileRef, SourceError, faults_as
from storage.sources.source_files import SOURCE_FILES_FILE, fingerprint_of, write_source_files
from storage.sources.video import nearest
from storage.stores.index import (
    LEFT_OUT_FILE,
    ClipRow,
    LeftOut,
    Split,
    clip_id,
    write_clips,
    write_left_out,
)
from storage.stores.results import ResultWriter
from storage.stores.rows import INDEX_FILE
from storage.stores.size import DiskUse

ROW_BYTES = 1000  # of a clip in the index, with its share of the list of files
MAX_REASONS = 100  # rows for the gaps of one episode


def fingerprint(root: Path) -> str:
    """64 hex digits that identify a data set by its files' names and contents.

    Raises ValueError if `root` is no AGIBOT-World root.
    """
    return fingerprint_of(source_files(root))


@dataclass(frozen=True, kw_only=True)
class Discover(DatasetStage):
    """Writes `index.parquet`, and `left_out.parquet` with a row for each thing not indexed.

    Also `source_files.parquet`: the data set's files with digests of their contents.
    """

    # Where the data set is; `source` says which one it is
    root: str = field(metadata={"key": False, "set_by": "--source"})
    source: str = field(metadata={"set_by": "--source"})  # `fingerprint(root)`
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames", "rate_hz")})
    hop_s: Annotated[float, Gt(0)] = 0.5  # between the starts of successive clips
    cameras: Annotated[tuple[str, ...], MinLen(1)] = ("head_color",)
    val_share: Annotated[float, Interval(ge=0, le=1)] = 0.05  # of the episodes
    test_share: Annotated[float, Interval(ge=0, le=1)] = 0.05
    split_salt: str = ""  # another text draws other splits
    max_clips_per_episode: Annotated[int, Ge(0)] = 0  # spread evenly over the episode; 0 = all

    name: ClassVar[str] = "discover"
    version: ClassVar[int] = 1
    kind = "index"
    inputs: ClassVar[Inputs] = {}

    def __post_init__(self) -> None:
        if self.hop_s <= 0 or self.max_clips_per_episode < 0:
            raise ValueError(
                f"hop_s={self.hop_s}, max_clips_per_episode={self.max_clips_per_episode}: expected "
                "a hop above 0 and no negative limit"
            )
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share={self.val_share}, test_share={self.test_share}: expected a sum below 1"
            )

    def disk_use(self, n_clips: int) -> DiskUse:
        return DiskUse(kept=100_000 + ROW_BYTES * n_clips, inodes=10)

    @classmethod
    def of(cls, root: Path, **parameters) -> "Discover":
        """The stage for the data set as it is now."""
        return cls(root=str(root.absolute()), source=fingerprint(root), **parameters)

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        root = Path(self.root)
        files = source_files(root)
        if (found := fingerprint_of(files)) != self.source:
            raise ValueError(
                f"the files under {root} have changed since this run was planned (fingerprint "
                f"{found[:12]}, expected {self.source[:12]}): run again to make an index of the "
                "changed files"
            )
        write_source_files(out.path / SOURCE_FILES_FILE, files)
        listing = list_episodes(root)
        # Clips of each episode, or the reasons why there are none
        left_out = [_left_out(fault) for fault in listing.faults]
        candidates: list[Candidate] = []
        for i, episode in enumerate(listing.episodes):
            for found in guarded(episode, self):
                if isinstance(found, Candidate):
                    candidates.append(found)
                else:
                    left_out.append(found)
            progress(i + 1, len(listing.episodes))
        # Splits depend on all episodes with clips, so the rows can be made only now
        ids = {candidate.episode.identity for candidate in candidates}
        splits = assign_splits(ids, self.val_share, self.test_share, self.split_salt)
        made = [row for candidate in candidates for row in clip_rows(candidate, splits, self, root)]
        relative = [_relative(row, root) for row in left_out]
        write_left_out(out.path / LEFT_OUT_FILE, relative)
        if not made:
            reasons = dict(Counter(row.reason for row in relative))
            raise ValueError(f"no clip can be cut from {root}: {reasons}")
        write_clips(out.path / INDEX_FILE, made)
        return counts(made, relative, len(listing.episodes))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The clips of one camera of an episode: their starts, and the rows `[first, end)` of each."""

    episode: Episode
    camera: str
    effector: str
    starts_ns: Int64[np.ndarray, " m"]
    spans: Int64[np.ndarray, "m 2"]


def guarded(episode: Episode, config: Discover) -> list[Candidate | LeftOut]:
    """`candidates_of`, or the reason why the episode cannot be read: one never ends the run."""
    try:
        with faults_as("unreadable_episode", f"episode {episode.identity}", "readable files"):
            return list(candidates_of(episode, config))
    except SourceError as fault:
        return [replace(_left_out(fault), task=episode.task, episode=episode.episode)]


def candidates_of(episode: Episode, config: Discover) -> Iterator[Candidate | LeftOut]:
    """The episode's clips of each camera, or the reason why there are none."""

    def left_out(reason: str, found: str, expected: str, **more) -> LeftOut:
        unique = episode.identity == str(episode.episode)
        item = f"episode {f'{episode.task}/{episode.episode}' if unique else episode.identity}"
        named = {"item": item, "task": episode.task, "episode": episode.episode}
        return LeftOut(reason=reason, found=found, expected=expected, **named, **more)

    videos = f"videos {sorted(episode.videos)}"
    if not episode.has_files:
        yield left_out("no_files", "an entry in task_info only", "observations and proprio")
        return
    if episode.proprio is None:
        yield left_out("no_proprio", videos, "proprio_stats.h5")
        return
    try:
        header = read_proprio_header(episode.proprio)
    except SourceError as fault:
        found = f"{fault.item}: {fault.found}"
        yield left_out(fault.reason, found, fault.expected)
        return
    starts, spans, reasons = plan_clips(header, config)
    for camera in config.cameras:
        if camera not in episode.videos:
            yield left_out("no_video", videos, f"{camera}.mp4", camera=camera)
            continue
        for reason in reasons:
            yield left_out(**reason, camera=camera)
        if len(starts):
            yield Candidate(
                episode=episode,
                camera=camera,
                effector=header.effector,
                starts_ns=starts,
                spans=spans,
            )


def plan_clips(
    header: ProprioHeader, config: Discover
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, "m 2"], list[dict]]:
    """(starts, spans of rows, reasons for what is left out) of an episode with these timestamps."""
    f = config.clip_format
    times, period = header.timestamps_ns, period_ns(header.timestamps_ns)
    none = np.zeros(0, "int64"), np.zeros((0, 2), "int64")
    # The whole episode may be too slow or too short
    if period > NS / f.rate_hz * 1.01:
        found, expected = f"{NS / period:.3g} Hz", f"{f.rate_hz:g} Hz or more"
        return *none, [{"reason": "too_slow", "found": found, "expected": expected}]
    starts = clip_starts_ns(times, f.n_frames, f.rate_hz, config.hop_s)
    # A gap that is longer than a clip is one row, however long it is
    span = round(f.seconds * NS)
    reasons = [
        {
            "reason": "time_gap",
            "found": f"{(times[row + 1] - times[row]) / NS:.1f} s from row {row} to the next",
            "expected": f"at most {f.seconds:g} s, the span of a clip (was the clock set?)",
            "start_ns": int(times[row]),
        }
        for row in long_gaps(times, span)[:MAX_REASONS]
    ]
    if not len(starts) and reasons:
        reasons[0]["found"] += f", and no part of the {len(times)} rows is as long as a clip"
        return *none, reasons
    if not len(starts):
        seconds = (times[-1] - times[0]) / NS
        found = f"{len(times)} rows at {NS / period:.4g} Hz cover {seconds:.2f} s"
        expected = f"{f.seconds:g} s for {f.n_frames} frames at {f.rate_hz:g} Hz"
        return *none, [{"reason": "too_short", "found": found, "expected": expected}]
    # Clips with a gap are left out, each for itself
    wanted = frame_times_ns(starts, f.n_frames, f.rate_hz)
    gaps = largest_gap_ns(times, wanted)
    reasons += [
        {
            "reason": "time_gap",
            "found": f"a row {gap / 1e6:.0f} ms from its time",
            "expected": f"at most {period / 1e6:.0f} ms",
            "start_ns": int(start),
        }
        for start, gap in zip(starts, gaps, strict=True)
        if gap > period
    ]
    starts, wanted = starts[gaps <= period], wanted[gaps <= period]
    # Of the rest, at most so many as are asked for, spread over the episode
    limit = config.max_clips_per_episode
    if limit and len(starts) > limit:
        found, expected = f"{len(starts)} clips", f"at most {limit} an episode"
        reasons.append({"reason": "clip_limit", "found": found, "expected": expected})
        kept = np.linspace(0, len(starts) - 1, limit).round().astype(int)
        starts, wanted = starts[kept], wanted[kept]
    spans = np.stack([nearest(times, wanted[:, 0]), nearest(times, wanted[:, -1]) + 1], axis=1)
    return starts, spans, reasons


def clip_rows(
    candidate: Candidate, splits: Mapping[str, Split], config: Discover, root: Path
) -> Iterator[ClipRow]:
    """The index rows of one camera of an episode, by time."""
    episode, camera = candidate.episode, candidate.camera
    intrinsics, extrinsics = episode.calibration(camera)
    files = {
        "video": episode.videos[camera],
        "proprio": episode.proprio,
        "intrinsics": intrinsics,
        "extrinsics": extrinsics,
        "depth": episode.depth if camera == "head_color" else None,
    }
    refs = {name: ref.text(root) if isinstance(ref, FileRef) else "" for name, ref in files.items()}
    f = config.clip_format
    starts, spans = candidate.starts_ns.tolist(), candidate.spans.tolist()
    for start, (first, end) in zip(starts, spans, strict=True):
        texts, skills = overlapping(episode.info, first, end)
        yield ClipRow(
            clip_id=clip_id(episode.identity, camera, start, f.n_frames, f.rate_hz),
            task=-1 if episode.task is None else episode.task,
            episode=episode.episode,
            camera=camera,
            start_ns=start,
            n_frames=f.n_frames,
            rate_hz=f.rate_hz,
            split=splits[episode.identity],
            effector=candidate.effector,  # type: ignore[arg-type]
            task_name=episode.info.task_name if episode.info else "",
            texts=texts,
            skills=skills,
            **refs,
        )


def overlapping(
    info: EpisodeInfo | None, first: int, end: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(texts, skills) of the segments that share a frame with `[first, end)`, in their order."""
    segments = info.segments if info else ()
    shared = [s for s in segments if s.start_frame < end and s.end_frame > first]
    return tuple(s.text for s in shared), tuple(s.skill for s in shared)


def counts(made: list[ClipRow], left_out: list[LeftOut], n_listed: int) -> dict[str, float]:
    """The numbers of the stage's report."""
    numbers = {
        "clips": len(made),
        "episodes": len({(row.task, row.episode) for row in made}),
        "episodes_listed": n_listed,
        "episodes_without_text": len(
            {(row.task, row.episode) for row in made if not row.task_name}
        ),
        "left_out": len(left_out),
    }
    splits = Counter(row.split for row in made)
    reasons = Counter(row.reason for row in left_out)
    numbers |= {f"clips_{split}": n for split, n in sorted(splits.items())}
    numbers |= {f"left_out_{reason}": n for reason, n in sorted(reasons.items())}
    return {name: float(n) for name, n in numbers.items()}


def _left_out(fault: SourceError) -> LeftOut:
    return LeftOut(item=fault.item, reason=fault.reason, found=fault.found, expected=fault.expected)


def _relative(row: LeftOut, root: Path) -> LeftOut:
    """The row without the path of the data set, which is another one on each machine."""
    changed = {
        name: getattr(row, name).replace(f"{root}/", "").encode(errors="backslashreplace").decode()
        for name in ("item", "found", "expected")
    }
    return LeftOut(**vars(row) | changed)
