"""Lists the episodes of an AGIBOT-World root, and each one's files.

A file is identified by the end of its path (`.../videos/<camera>.mp4`) and belongs to the episode
whose id is the last number in the path. So both depths of `parameters`, folders named after a tar
(`702578-743685/`), episode folders nested in themselves and the members of tars need no special
case. Of a file that is there twice, the extracted one is used before the tar's member. Only
`task_info` and the headers of tars are read.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.sources import tars
from storage.sources.contents import OnProgress
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.source_files import SourceFile, digested

FOLDERS = ("observations", "parameters", "proprio_stats", "task_info")


@dataclass(frozen=True)
class Segment:
    """Frames `[start_frame, end_frame)` of the episode (30 Hz in AGIBOT-World) with one action."""

    start_frame: int
    end_frame: int
    text: str
    skill: str


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """An episode's entry in `task_info`."""

    task_name: str
    scene: str
    segments: tuple[Segment, ...]


@dataclass(kw_only=True)
class Episode:
    """An episode's files; None or an empty dict for missing ones.

    videos: by AGIBOT's camera names (`head_color`); intrinsics, extrinsics: by theirs (`head`), see
    `calibration`.
    """

    episode: int
    task: int | None = None
    info: EpisodeInfo | None = None
    proprio: FileRef | None = None
    videos: dict[str, FileRef] = field(default_factory=dict)
    intrinsics: dict[str, FileRef] = field(default_factory=dict)
    extrinsics: dict[str, FileRef] = field(default_factory=dict)
    depth: FileRef | None = None  # the folder, or a tar with the folder as member
    n_depth: int = 0

    def calibration(self, camera: str) -> tuple[FileRef | None, FileRef | None]:
        """(intrinsics, extrinsics): `head_color.mp4` goes with `head_intrinsic_params.json`."""
        name = camera.removesuffix("_color")
        return self.intrinsics.get(name), self.extrinsics.get(name)

    @property
    def has_files(self) -> bool:
        return bool(
            self.proprio or self.videos or self.intrinsics or self.extrinsics or self.n_depth
        )


@dataclass(frozen=True)
class Listing:
    """Episodes by id; faults: unreadable tars and task_info."""

    episodes: list[Episode]
    faults: list[SourceError]


def list_episodes(root: Path) -> Listing:
    """Every episode that has a file or an entry in `task_info`.

    Raises ValueError if `root` is no AGIBOT-World root.
    """
    _check_root(root)
    episodes: dict[int, Episode] = {}
    faults: list[SourceError] = []
    packed: list[Path] = []
    for path, _ in _files(root):
        if path.endswith(".tar"):
            packed.append(root / path)
        elif path.startswith("task_info/"):
            _add_task_info(root / path, episodes, faults)
        else:
            _add(path, FileRef(path=root / path), episodes)
    for tar in packed:
        folder = tar.relative_to(root).with_suffix("").as_posix()
        try:
            for name, ref in tars.members(tar).items():
                _add(f"{folder}/{name}", ref, episodes)
        except SourceError as fault:
            faults.append(fault)
    return Listing(sorted(episodes.values(), key=lambda e: e.episode), faults)


def source_files(
    root: Path, on_progress: OnProgress = lambda done, total: None
) -> list[SourceFile]:
    """All files in the root's four folders, with the digests of their contents.

    Raises ValueError if `root` is no AGIBOT-World root.
    """
    _check_root(root)
    return digested(root, _files(root), on_progress)


def depth_frames(depth: FileRef) -> dict[int, FileRef]:
    """Frame number -> 16-bit PNG, from an episode's `depth`."""
    if depth.member:
        refs = list(tars.members(depth.path, prefix=f"{depth.member}/").values())
    else:
        refs = [FileRef(path=path) for path in depth.path.iterdir()]
    by_name = {(Path(ref.member) if ref.member else ref.path).stem: ref for ref in refs}
    prefix = "head_depth_"
    frames = {
        name.removeprefix(prefix): ref for name, ref in by_name.items() if name.startswith(prefix)
    }
    return {int(number): frames[number] for number in sorted(frames) if number.isdigit()}


def _check_root(root: Path) -> None:
    missing = [name for name in ("observations", "proprio_stats") if not (root / name).is_dir()]
    if not missing:
        return
    found = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
    hint = ""
    if (root / "meta_info").exists():
        hint = " (AGIBOT DigitalWorld has another layout, which is not supported)"
    raise ValueError(
        f"{root} is no AGIBOT-World root: it lacks {' and '.join(missing)}; found {found}{hint}. "
        "Give the folder that contains observations, parameters, proprio_stats and task_info."
    )


def _files(root: Path) -> Iterator[tuple[str, int]]:
    """(path under the root, bytes) of every file that is not hidden, sorted within each folder."""
    stack = [name for name in reversed(FOLDERS) if (root / name).is_dir()]
    while stack:
        folder = stack.pop()
        with os.scandir(root / folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            found = sorted(visible, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_file():
                yield f"{folder}/{entry.name}", entry.stat().st_size
        stack.extend(f"{folder}/{entry.name}" for entry in reversed(found) if entry.is_dir())


def _add(path: str, ref: FileRef, episodes: dict[int, Episode]) -> None:
    """Adds the file to its episode, if it is one that we read and the first of its kind."""
    above, _, name = path.rpartition("/")
    numbers = [int(part) for part in above.split("/") if part.isdigit()]
    if not numbers:
        return
    folder = above.rpartition("/")[2]
    episode = episodes.get(numbers[-1]) or Episode(episode=numbers[-1])
    if name == "proprio_stats.h5":
        episode.proprio = episode.proprio or ref
    elif folder == "videos" and name.endswith(".mp4"):
        episode.videos.setdefault(name.removesuffix(".mp4"), ref)
    elif folder == "depth" and name.startswith("head_depth_") and name.endswith(".png"):
        _add_depth(episode, ref)
    elif folder == "camera" and name.endswith("_intrinsic_params.json"):
        episode.intrinsics.setdefault(name.removesuffix("_intrinsic_params.json"), ref)
    elif folder == "camera" and name.endswith("_extrinsic_params_aligned.json"):
        episode.extrinsics.setdefault(name.removesuffix("_extrinsic_params_aligned.json"), ref)
    else:
        return
    if episode.task is None and numbers[0] != numbers[-1]:
        episode.task = numbers[0]
    episodes[episode.episode] = episode


def _add_depth(episode: Episode, ref: FileRef) -> None:
    folder = ref.member.rpartition("/")[0]
    place = FileRef(path=ref.path, member=folder) if folder else FileRef(path=ref.path.parent)
    episode.depth = episode.depth or place
    episode.n_depth += episode.depth == place


def _add_task_info(path: Path, episodes: dict[int, Episode], faults: list[SourceError]) -> None:
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        faults.append(SourceError("corrupt_task_info", path, str(error), "a JSON list of episodes"))
        return
    number = path.stem.removeprefix("task_")
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            episode_id = int(entry["episode_id"])
            episode = episodes.setdefault(episode_id, Episode(episode=episode_id))
            episode.info = _parse_info(entry)
        except (KeyError, TypeError, ValueError) as error:
            item, found = f"{path} entry {i}", f"{type(error).__name__}: {error}"
            expected = "episode_id and label_info"
            faults.append(SourceError("corrupt_task_info", item, found, expected))
            continue
        if episode.task is None and number.isdigit():
            episode.task = int(number)


def _parse_info(entry: dict) -> EpisodeInfo:
    # Early files misspell the key.
    labels = entry.get("label_info") or entry.get("lable_info") or {}
    segments = []
    for s in labels.get("action_config") or ():
        start, end = int(s["start_frame"]), int(s["end_frame"])
        text, skill = str(s.get("action_text", "")), str(s.get("skill", ""))
        segments.append(Segment(start, end, text, skill))
    return EpisodeInfo(
        task_name=str(entry.get("task_name", "")),
        scene=str(entry.get("init_scene_text", "")),
        segments=tuple(segments),
    )
