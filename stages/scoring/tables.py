"""Scores of videos as CSV, in the evaluation's columns and the seed."""

from collections.abc import Iterator, Sequence

import numpy as np

from stages.drawing.csv_table import csv_table
from stages.evaluation.columns import table_order
from stages.evaluation.tables import CLIP_COLUMNS, FRAME_COLUMNS
from stages.scoring.scores import ScoredClip, ScoredVideo


def clips_csv(clips: Sequence[ScoredClip]) -> bytes:
    """A row for each video and cell."""
    rows = (
        (clip.clip_id, clip.episode, "", *cell, scored.scores[cell], seed)
        for clip, scored, seed in scored_videos(clips)
        for cell in sorted(scored.scores, key=table_order)
    )
    return csv_table((*CLIP_COLUMNS, "seed"), rows)


def frames_csv(clips: Sequence[ScoredClip]) -> bytes:
    """The same of single frames, from frame 1 on."""
    rows = (
        (clip.clip_id, clip.episode, *cell, frame, value, seed)
        for clip, scored, seed in scored_videos(clips)
        for cell in sorted(scored.by_frame, key=table_order)
        for frame, value in enumerate(scored.by_frame[cell], start=1)
        if not np.isnan(value)
    )
    return csv_table((*FRAME_COLUMNS, "seed"), rows)


def scored_videos(clips: Sequence[ScoredClip]) -> Iterator[tuple[ScoredClip, ScoredVideo, str]]:
    """(clip, one of its videos or the copy, seed)."""
    for clip in clips:
        for scored in clip.videos:
            yield clip, scored, scored.video.seed
        yield clip, clip.copied, ""
