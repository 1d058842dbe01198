"""Which file is what, and whose: from paths under an AGIBOT-World root alone.

A file is identified by the end of its path (`.../videos/<camera>.mp4`). Its episode is the last
number in the path, among those of the folders above it: two recordings that both count from 0 stay
two. Folders that only pack (named after a tar, nested in themselves) do not count.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from storage.sources.agibot.task_info import EpisodeInfo, is_id
from storage.sources.file_ref import FileRef, SourceError

FOLDERS = ("observations", "parameters", "proprio_stats", "task_info")
_RANGE = re.compile(r"\d+-\d+")  # a tar's name
_PART = re.compile(r"\.tar\.?(part|\d|[a-z]{2}$)", re.IGNORECASE)
_PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|zip|7z|gz|zst)$", re.IGNORECASE)
READ = (
    "videos/<camera>.mp4, depth/head_depth_<frame>.png, camera/<camera>_intrinsic_params.json and "
    "_extrinsic_params_aligned.json, or proprio_stats.h5, in a folder named by the episode's number"
)

Owner = tuple[tuple[str, ...], int]  # folders above the episode, its number


@dataclass
class Found:
    """The files of one owner; `depth` counts the pictures of each folder with such."""

    group: tuple[str, ...]
    number: int
    files: dict[str, tuple[FileRef, int]] = field(default_factory=dict)  # role -> file, bytes
    depth: Counter[FileRef] = field(default_factory=Counter)
    info: EpisodeInfo | None = None

    @property
    def roles(self) -> set[str]:
        has = {"depth": self.depth, "info": self.info}
        return {*self.files, *(role for role, there in has.items() if there)}

    def take(self, other: "Found") -> None:
        self.files |= other.files
        self.depth += other.depth
        self.info = self.info or other.info


def owner_of(path: str) -> Owner | None:
    """None for a path without an episode's number."""
    parts = path.split("/")[1:-1]
    numbers = [i for i, part in enumerate(parts) if is_id(part)]
    if not numbers:
        return None
    number = int(parts[numbers[-1]])
    above = [part for part in parts[: numbers[-1]] if part not in FOLDERS]
    group = [str(int(p)) if is_id(p) else p for p in above if not _RANGE.fullmatch(p)]
    while len(group) > 1 and group[-1] == str(number):
        group.pop()
    return tuple(group), number


def role_of(path: str) -> str | None:
    """`proprio`, `depth`, or e.g. `video head_color`; `unused` for what is known and not needed."""
    above, _, name = path.rpartition("/")
    folder = above.rpartition("/")[2]
    if name == "proprio_stats.h5":
        return "proprio"
    if folder == "videos" and name.endswith(".mp4"):
        return f"video {name.removesuffix('.mp4')}"
    if folder == "depth" and name.startswith("head_depth_") and name.endswith(".png"):
        return "depth"
    if folder == "camera" and name.endswith(".json"):
        for role in ("intrinsic_params", "extrinsic_params_aligned"):
            if name.endswith(f"_{role}.json"):
                return f"{role} {name.removesuffix(f'_{role}.json')}"
        return "unused"
    return "unused" if folder == "tactile" else None


@dataclass
class Unread:
    """Files that are there but not understood, counted by kind: a row each would be millions."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        folder, suffix = above.rpartition("/")[2], name.partition(".")[2]
        packed = _PACKED.search(name) or _PART.search(name)
        kind = ("" if is_id(folder) or packed else folder, re.sub(r"\d+", "0", suffix))
        self.counts[kind] += 1
        self.first.setdefault(kind, path)

    def faults(self, root: str) -> Iterable[SourceError]:
        for kind, path in self.first.items():
            others = self.counts[kind] - 1
            found = "a file" + (f", and {others} more like it" if others else "")
            yield SourceError("not_understood", f"{root}/{path}", found, _what_to_do(path))


def _what_to_do(path: str) -> str:
    name = path.rpartition("/")[2]
    if _PART.search(name):
        return "a whole tar: join its parts (cat x.tar.* > x.tar)"
    if _PACKED.search(name):
        return "an uncompressed tar, or its files: decompress it"
    if name != name.lower() and role_of(path.lower()):
        return f"the name in small letters: {name.lower()}"
    return READ


def joined(found: Iterable[Found]) -> list[Found]:
    """One for each episode. Files whose path says less about their owner (no task, or no folder
    above it) go to the only episode of that number that they may belong to; where there are two,
    or both have such a file, they stay apart.
    """
    by_number: dict[int, list[Found]] = {}
    for one in found:
        by_number.setdefault(one.number, []).append(one)
    made: list[Found] = []
    for same in by_number.values():
        apart = sorted(same, key=lambda one: (len(one.group), one.group))
        for one in list(apart):
            others = [o for o in apart if o is not one and _is_part(one.group, o.group)]
            if len(others) == 1 and not one.roles & others[0].roles:
                others[0].take(one)
                apart.remove(one)
        made += apart
    return made


def _is_part(group: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether `other` has the same folders in this order, and more."""
    rest = iter(other)
    return len(other) > len(group) and all(part in rest for part in group)
