"""A folder of videos, or a CSV that lists some -> which video is of which clip, seed and variant.

In a folder, each video is named by its clip's id: `<clip id>.mp4` (or another kind of `KINDS`), or
a folder `<clip id>/` of PNG or JPEG frames. A CSV has the columns `clip_id` and `path` (relative to
its own folder) and, if there are several videos of a clip, `seed` or `variant` or both.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from storage.files import sha256_file

MOVIES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
ANIMATIONS, ARRAYS = (".gif",), (".npz",)
KINDS = (*MOVIES, *ANIMATIONS, *ARRAYS)
PICTURES = (".png", ".jpg", ".jpeg")
COLUMNS, OPTIONAL = ("clip_id", "path"), ("seed", "variant")
NAMED = 5  # items that a message names


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video of a clip. seed, variant: as the CSV has them, empty without one."""

    clip_id: str
    path: Path  # of the file, or of the folder of frames
    seed: str = ""
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.variant and f"variant {self.variant}", self.seed and f"seed {self.seed}")
        of = ", ".join(part for part in parts if part)
        return f"{self.path.name} ({of})" if of else self.path.name


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """The videos to score."""

    place: Path  # the folder or the CSV
    videos: tuple[VideoFile, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.videos)

    @cached_property
    def digest(self) -> str:
        """Of what is in them and of which clip each one is; reads all of their bytes.

        Raises OSError for a file that cannot be read.
        """
        return digest_of(self.videos)


def read_video_set(place: Path) -> VideoSet:
    """The videos of a folder or a CSV, in the order of clip, variant and seed.

    Files of other kinds in the folder are no videos. Raises ValueError, naming the item, for what
    is neither, a CSV without a column or with a file that is not there, two videos for one clip,
    and no video at all.
    """
    if place.is_dir():
        found = in_folder(place)
    elif place.suffix.lower() == ".csv" and place.is_file():
        found = in_csv(place)
    else:
        what = "nothing" if not place.exists() else f"a '{place.suffix}' file"
        raise ValueError(
            f"{place}: found {what}, expected a folder of videos or a .csv file that lists them"
        )
    check_unique(place, found)
    videos = tuple(sorted(found, key=lambda v: (v.clip_id, v.variant, v.seed)))
    return VideoSet(place=place, videos=videos)


def default_name(place: Path) -> str:
    """Of a model, by where its videos are: the folder's whole name, the CSV's without `.csv`."""
    place = place.absolute()
    return place.name if place.is_dir() else place.stem


def in_folder(folder: Path) -> list[VideoFile]:
    found, pictures = list[VideoFile](), 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += [VideoFile(clip_id=path.name, path=path)] if frame_files(path) else []
        elif path.suffix.lower() in KINDS:
            found.append(VideoFile(clip_id=path.stem, path=path))
        pictures += path.suffix.lower() in PICTURES
    if not found:
        what = f"{pictures} pictures and no video" if pictures else "no video"
        raise ValueError(
            f"{folder}: found {what}, expected files named by the clips' ids ({', '.join(KINDS)}), "
            "or folders of that name with PNG or JPEG frames"
        )
    return found


def in_csv(path: Path) -> list[VideoFile]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: no CSV in UTF-8 ({error}); save it as one") from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(
            f"{path}: the column {' and '.join(missing)} is missing, found {columns}; expected "
            f"{', '.join(COLUMNS)}, and {' and '.join(OPTIONAL)} if there are several videos of a "
            "clip"
        )
    if not rows:
        raise ValueError(f"{path}: found no line below the heading, expected one for each video")
    return [in_line(path, number, row) for number, row in enumerate(rows, start=2)]


def in_line(path: Path, number: int, row: dict[str, str | None]) -> VideoFile:
    cells = {name: (row.get(name) or "").strip() for name in (*COLUMNS, *OPTIONAL)}
    if empty := [name for name in COLUMNS if not cells[name]]:
        raise ValueError(f"{path}, line {number}: {' and '.join(empty)} is empty; fill it in")
    video = path.parent / cells.pop("path")
    is_video = frame_files(video) if video.is_dir() else video.suffix.lower() in KINDS
    if not video.exists() or not is_video:
        what = "a file or folder that is no video" if video.exists() else "nothing"
        raise ValueError(
            f"{path}, line {number}: found {what} at {video}, expected a video "
            f"({', '.join(KINDS)}) or a folder of PNG or JPEG frames; paths are relative to the "
            "CSV's folder"
        )
    return VideoFile(path=video, **cells)


def check_unique(place: Path, videos: Sequence[VideoFile]) -> None:
    """Raises ValueError if two videos cannot be told apart."""
    counts = Counter((v.clip_id, v.variant, v.seed) for v in videos)
    name, n = counts.most_common(1)[0]
    if n > 1:
        same = [str(v.path) for v in videos if (v.clip_id, v.variant, v.seed) == name]
        raise ValueError(
            f"{place}: {n} videos for clip {videos_of(name)}: {some(same)}. Expected one; keep "
            "one, or list them in a CSV with different values in the column seed or variant"
        )


def videos_of(name: tuple[str, str, str]) -> str:
    clip_id, variant, seed = name
    return (
        clip_id + (f", variant {variant}" if variant else "") + (f", seed {seed}" if seed else "")
    )


def frame_files(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of the numbers in their names."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted((p for p in found if p.suffix.lower() in PICTURES), key=natural_order)


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sorts `frame_2` before `frame_10`."""
    parts, digits = list[tuple[int, int, str]](), ""
    for char in path.stem + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return parts


def digest_of(videos: Sequence[VideoFile]) -> str:
    """64 hex digits that other contents, clips, seeds or variants change; other paths do not.

    Every byte counts: frames in a large array may differ without a change of size or of a header.
    """
    found = hashlib.sha256()
    for video in videos:
        is_folder = video.path.is_dir()
        contents = [
            sha256_file(p) for p in (frame_files(video.path) if is_folder else [video.path])
        ]
        kind = "frames" if is_folder else video.path.suffix.lower()
        found.update(repr((video.clip_id, video.variant, video.seed, kind, contents)).encode())
    return found.hexdigest()


def some(items: Sequence[str], limit: int = NAMED) -> str:
    """The first items, and how many more there are."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
