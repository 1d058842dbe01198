"""Videos of clips in the layout that WorldArena's scripts read.

    <model>_sort/<task>_episode_<n>.mp4      the videos of a model, and nothing else
    summary.json                             of each: gt_path, image, prompt
    gt/<task>/clips/<camera>/video/episode_<n>.mp4, .png    true video, first frame
    index.csv                                which video is which clip

Its `video_quality/README.md` (github.com/tsinghua-fib-lab/WorldArena) gives the names and the
summary. Its `preprocess_datasets.py` takes the task from the true video's path, five names from
the end, and the episode from the file's name, and looks for `<task>_<episode>.mp4`; the three
folders between are there for it. Clips of a task are numbered, since an episode has several.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.base import Progress
from stages.drawing.csv_table import csv_table
from stages.drawing.pictures import png_bytes, write_mp4
from stages.exporting.prompts import text_of
from stages.scoring.reader import VideoReader
from stages.scoring.videos import VideoFile
from stages.tokenizer.images import images_to_rgb
from storage.atomic import write_file
from storage.stores.rows import ClipRows

SUMMARY = "summary.json"
SUFFIX = "_sort"  # of a model's folder: WorldArena's own
COLUMNS = ("video", "clip_id", "task", "number")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A clip under its name there."""

    clip_id: str
    row: int
    task: str
    number: int
    camera: str
    prompt: str

    @property
    def name(self) -> str:
        return f"{self.task}_episode_{self.number}"

    @property
    def truth(self) -> str:
        """The true video's path, without its suffix."""
        return f"gt/{self.task}/clips/{self.camera}/video/episode_{self.number}"


def entries_of(clips: ClipRows, rows: list[int]) -> list[Entry]:
    """Clips of a task are numbered from 0, in the order of the rows."""
    about, found = clips.index, list[Entry]()
    numbers: dict[str, int] = {}
    for row in sorted(rows):
        names = [n for n in ("task", "camera", "task_name", "texts") if n in about.specs]
        facts = {name: about.gather(name, np.array([row]))[0] for name in names}
        task = str(facts["task"])
        numbers[task] = numbers.get(task, -1) + 1
        entry = Entry(
            clip_id=clips.clip_ids[row],
            row=row,
            task=task,
            number=numbers[task],
            camera=str(facts.get("camera", "camera")),
            prompt=text_of(str(facts.get("task_name", "")), facts.get("texts", ())),
        )
        found.append(entry)
    return found


def write_worldarena(
    folder: Path,
    place: Path,
    models: Mapping[str, Mapping[int, VideoFile]],
    reader: VideoReader,
    clips: ClipRows,
    progress: Progress,
) -> None:
    """Writes the folder, which will be at `place`.

    models: by name, the video of each clip, by its row; all at their clips' times and size. Raises
    BadVideo for one that cannot be used.
    """
    rows = {row for videos in models.values() for row in videos}
    entries = entries_of(clips, list(rows))
    total, done = len(entries) + sum(len(videos) for videos in models.values()), 0
    for entry in entries:
        rgb = clips.read(["rgb"], entry.row)["rgb"]
        write_mp4(folder / f"{entry.truth}.mp4", rgb, reader.rate_hz)
        write_file(folder / f"{entry.truth}.png", png_bytes(rgb[0]))
        done += 1
        progress(done, total, f"clip {entry.clip_id}")
    for model, videos in models.items():
        for entry in entries:
            if entry.row in videos:
                frames = images_to_rgb(reader.images(videos[entry.row]))
                target = folder / f"{model}{SUFFIX}" / f"{entry.name}.mp4"
                write_mp4(target, frames, reader.rate_hz)
                done += 1
                progress(done, total, f"{model}, clip {entry.clip_id}")
    write_file(folder / SUMMARY, summary(entries, place))
    lines = ((f"{e.name}.mp4", e.clip_id, e.task, e.number) for e in entries)
    write_file(folder / "index.csv", csv_table(COLUMNS, lines))


def summary(entries: list[Entry], place: Path) -> bytes:
    found = [
        {
            "gt_path": str(place / f"{entry.truth}.mp4"),
            "image": str(place / f"{entry.truth}.png"),
            "prompt": [entry.prompt],
        }
        for entry in entries
    ]
    return json.dumps(found, indent=1, ensure_ascii=False).encode()
