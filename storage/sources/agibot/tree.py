"""Lists the episodes of an AGIBOT-World root, and each one's files.

Both depths of `parameters`, folders named after a tar (`702578-743685/`), episode folders nested in
themselves and the members of tars need no special case: see `found_files`. Of a file that is there
twice, the extracted one is used before the tar's member. Only `task_info` and the headers of tars
are read. What cannot be read or is not understood is a fault with its path, never an end.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.sources import tars
from storage.sources.agibot.found_files import (
    FOLDERS,
    Found,
    Owner,
    Unread,
    joined,
    owner_of,
    role_of,
)
from storage.sources.agibot.task_info import EpisodeInfo, is_id, read_task_info
from storage.sources.contents import OnProgress
from storage.sources.file_ref import FileRef, SourceError, faults_as
from storage.sources.source_files import SourceFile, digested


@dataclass(kw_only=True)
class Episode:
    """An episode's files; None or an empty dict for missing ones.

    identity: its number, with the folders above it if other episodes have the same one. videos: by
    AGIBOT's camera names (`head_color`); intrinsics, extrinsics: by theirs (`head`), see
    `calibration`.
    """

    episode: int
    identity: str
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
    """Episodes by id; faults: what could not be read or understood."""

    episodes: list[Episode]
    faults: list[SourceError]


def list_episodes(root: Path) -> Listing:
    """Every episode that has a file or an entry in `task_info`.

    Raises ValueError if `root` is no AGIBOT-World root.
    """
    _check_root(root)
    listed = _Listed(root)
    packed: list[Path] = []
    for path, size in _files(root, listed.faults):
        if path.endswith(".tar"):
            packed.append(root / path)
        elif path.startswith("task_info/") and path.endswith(".json"):
            listed.add_task_info(root / path)
        else:
            listed.add(path, FileRef(path=root / path), size)
    for tar in packed:
        listed.add_tar(tar)
    listed.faults += listed.unread.faults(str(root))
    return Listing(_episodes(listed), listed.faults)


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
    return {int(number): frames[number] for number in sorted(frames) if is_id(number)}


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


def _files(root: Path, faults: list[SourceError] | None = None) -> Iterator[tuple[str, int]]:
    """(path under the root, bytes) of every file that is not hidden, sorted within each folder.

    Folders that cannot be read and links that lead nowhere or in a circle go to `faults`.
    """
    faults = [] if faults is None else faults
    stack = [name for name in reversed(FOLDERS) if (root / name).is_dir()]
    while stack:
        folder = stack.pop()
        try:
            with os.scandir(root / folder) as entries:
                visible = (entry for entry in entries if not entry.name.startswith("."))
                found = sorted(visible, key=lambda entry: entry.name)
        except OSError as error:
            what = error.strerror or str(error)
            faults.append(SourceError("unreadable_folder", root / folder, what, "a readable one"))
            continue
        folders = []
        for entry in found:
            try:
                with faults_as("unreadable_file", entry.path, "a file or a folder"):
                    if entry.is_file():
                        yield f"{folder}/{entry.name}", entry.stat().st_size
                    elif entry.is_dir():
                        _check_circle(entry, root / folder)
                        folders.append(f"{folder}/{entry.name}")
                    else:
                        target = os.readlink(entry) if entry.is_symlink() else ""
                        what = f"a link to {target}, which is not there" if target else "no file"
                        raise SourceError("unreadable_file", entry.path, what, "a readable file")
            except SourceError as fault:
                faults.append(fault)
        stack.extend(reversed(folders))


def _check_circle(entry: os.DirEntry, folder: Path) -> None:
    """Raises SourceError for a link to a folder that it is in."""
    if entry.is_symlink() and folder.resolve().is_relative_to(target := Path(entry).resolve()):
        what = f"a link to {target}, which it is in"
        raise SourceError("unreadable_file", entry.path, what, "no circle of folders")


class _Listed:
    """What has been found under a root so far."""

    def __init__(self, root: Path):
        self.root = root
        self.found: dict[Owner, Found] = {}
        self.faults: list[SourceError] = []
        self.unread = Unread()

    def add(self, path: str, ref: FileRef, size: int) -> None:
        """A file to its episode, if it is one that we read."""
        role, owner = role_of(path), owner_of(path)
        if role == "unused":
            return
        if role is None or owner is None:
            self.unread.add(path)
            return
        if not _is_text(path):
            found, expected = "a name that is no UTF-8", "one that is: rename it"
            self.faults.append(SourceError("bad_name", ref, found, expected))
            return
        one = self.found.setdefault(owner, Found(*owner))
        if role == "depth":
            folder = ref.member.rpartition("/")[0]
            one.depth[
                FileRef(path=ref.path, member=folder) if folder else FileRef(path=ref.path.parent)
            ] += 1
            return
        before, bytes_before = one.files.setdefault(role, (ref, size))
        if before != ref and bytes_before != size and bool(before.member) == bool(ref.member):
            found = f"{size} bytes, and {bytes_before} in {before}, which is used"
            self.faults.append(SourceError("two_files", ref, found, "one such file an episode"))

    def add_task_info(self, path: Path) -> None:
        for entry in read_task_info(path):
            if isinstance(entry, SourceError):
                self.faults.append(entry)
                continue
            owner = () if entry.task is None else (str(entry.task),), entry.episode
            one = self.found.setdefault(owner, Found(*owner))
            one.info = entry.info or one.info

    def add_tar(self, tar: Path) -> None:
        folder = tar.relative_to(self.root).with_suffix("").as_posix()
        try:
            with faults_as("truncated_tar", tar, "a whole tar (download it again)"):
                self.faults += tars.unusable(tar)
                for name, ref in tars.members(tar).items():
                    self.add(f"{folder}/{name}", ref, ref.size)
        except SourceError as fault:
            self.faults.append(fault)


def _is_text(path: str) -> bool:
    return path.encode(errors="ignore").decode() == path


def _episodes(listed: _Listed) -> list[Episode]:
    found = joined(listed.found.values())
    numbers = Counter(one.number for one in found)
    made = []
    for one in sorted(found, key=lambda one: (one.number, one.group)):
        shared = numbers[one.number] > 1
        episode = Episode(
            episode=one.number,
            identity="/".join([*one.group, str(one.number)]) if shared else str(one.number),
            task=next((int(part) for part in one.group if is_id(part)), None),
            info=one.info,
        )
        for role, (ref, _) in one.files.items():
            kind, _, name = role.partition(" ")
            if kind == "proprio":
                episode.proprio = ref
            else:
                by_name = {"video": episode.videos, "intrinsic_params": episode.intrinsics}
                by_name.get(kind, episode.extrinsics)[name] = ref
        if one.depth:
            episode.depth, episode.n_depth = next(iter(one.depth.items()))
            for other in list(one.depth)[1:]:
                if bool(other.member) == bool(episode.depth.member):
                    what = f"depth pictures, as in {episode.depth}, which is used"
                    listed.faults.append(SourceError("two_files", other, what, "one such folder"))
        made.append(episode)
    return made
