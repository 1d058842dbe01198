"""Scores as CSV tables in long form, which `roboscape compare` and spreadsheets read.

`clips.csv` has a row for each clip and cell, `frames.csv` one for each of its frames after frame 0.
Episodes are named `task/episode`: clips of one episode are no independent samples.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from stages.base import Stage
from stages.batches import clip_ids_at
from stages.drawing.csv_table import csv_table
from stages.evaluation.columns import table_order
from stages.evaluation.scores import Cell, ScoredClip, Scores
from storage.stores.key import parameters
from storage.stores.rows import Rows

MEANS_FILE = "metrics.csv"
CLIPS_FILE, FRAMES_FILE = "tables/clips.csv", "tables/frames.csv"
VIDEOS = "videos"  # folder of the scored videos, `<clip id>.mp4`
CLIP_COLUMNS = ("clip", "episode", "other_clip", *Cell._fields, "value")
FRAME_COLUMNS = ("clip", "episode", *Cell._fields, "frame", "value")


@dataclass(frozen=True, kw_only=True)
class ClipNames:
    """Names of the scored clips, in order. others: whose actions ΔPSNR was measured with, or ""."""

    ids: Sequence[str]
    episodes: Sequence[str]
    others: Sequence[str]

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Rows],
        chosen: Int[np.ndarray, " n"],
        others: Int[np.ndarray, " n"] | None,
    ) -> "ClipNames":
        return cls(
            ids=clip_ids_at(rows["clip"], chosen),
            episodes=episode_names(rows["discover"], chosen),
            others=[""] * len(chosen) if others is None else clip_ids_at(rows["clip"], others),
        )


def episode_names(index: Rows, chosen: Int[np.ndarray, " n"]) -> list[str]:
    """`task/episode` of these rows of the clip index."""
    tasks, episodes = (index.gather(name, chosen) for name in ("task", "episode"))
    return [f"{task}/{episode}" for task, episode in zip(tasks, episodes, strict=True)]


def metrics_csv(means: Scores) -> bytes:
    return csv_table((*Cell._fields, "value"), ((*cell, value) for cell, value in means.items()))


def metrics_json(
    stage: Stage, setting: object, numbers: Mapping[str, float], means: Scores
) -> bytes:
    """What was measured and how. setting: a dataclass, as the stage's page has it."""
    found = {
        "setting": vars(setting),
        "stage": parameters(stage),
        "numbers": dict(numbers),
        "means": [{**Cell._asdict(cell), "value": value} for cell, value in means.items()],
    }
    return json.dumps(found, indent=1, ensure_ascii=False).encode()


def clips_csv(names: ClipNames, clips: Sequence[ScoredClip]) -> bytes:
    rows = (
        (clip_id, episode, other, *cell, clip.scores[cell])
        for clip_id, episode, other, clip in zip(
            names.ids, names.episodes, names.others, clips, strict=True
        )
        for cell in sorted(clip.scores, key=table_order)
    )
    return csv_table(CLIP_COLUMNS, rows)


def frames_csv(names: ClipNames, clips: Sequence[ScoredClip]) -> bytes:
    return csv_table(FRAME_COLUMNS, frame_rows(names, clips))


def frame_rows(names: ClipNames, clips: Sequence[ScoredClip]) -> Iterator[tuple[object, ...]]:
    """Frames are counted from 0, the given one, which has no row; nor has one without a value."""
    for clip_id, episode, clip in zip(names.ids, names.episodes, clips, strict=True):
        for cell in sorted(clip.by_frame, key=table_order):
            for frame, value in enumerate(clip.by_frame[cell], start=1):
                if not np.isnan(value):
                    yield clip_id, episode, *cell, frame, value
