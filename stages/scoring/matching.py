"""Which video is of which clip of a store; and what has no counterpart, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stages.batches import usable_rows
from stages.scoring.videos import VideoFile, VideoSet, some
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Matched:
    """place: of the videos. by_row: the videos of each clip, by its row, ascending.

    no_clip: videos whose clip the store does not have, or has no data of, with the reason.
    no_video: ids of the usable clips, of the splits that the videos' clips are of, without a video.
    n_clips: how many there are in these splits.
    """

    place: Path
    by_row: Mapping[int, Sequence[VideoFile]]
    no_clip: Sequence[tuple[VideoFile, str]]
    no_video: Sequence[str]
    splits: Sequence[str]
    n_clips: int


def match(videos: VideoSet, rows: Mapping[str, Rows]) -> Matched:
    """Raises ValueError if no video is of a clip with data, with examples of both names."""
    clips = rows["clip"]
    row_of = {clip_id: row for row, clip_id in enumerate(clips.clip_ids)}
    by_row: dict[int, list[VideoFile]] = {}
    no_clip = list[tuple[VideoFile, str]]()
    for video in videos.videos:
        row = row_of.get(video.clip_id)
        if row is None:
            no_clip.append((video, "no such clip"))
        elif not clips.ok[row]:
            no_clip.append((video, f"the clip was left out ({clips.why_rejected(row)})"))
        else:
            by_row.setdefault(row, []).append(video)
    if not by_row:
        have = [clip_id for clip_id, row in row_of.items() if clips.ok[row]]
        found = "; ".join(f"{video}: {why}" for video, why in no_clip[:3])
        raise ValueError(
            f"{videos.place}: none of the {len(videos)} videos is of a clip of {clips.ref} "
            f"({found}); expected clip ids such as {some(have, 2)}. `roboscape export prompts` "
            "writes what to predict, under these names"
        )
    chosen = np.array(sorted(by_row))
    splits = sorted({str(name) for name in rows["discover"].gather("split", chosen)})
    usable = usable_rows(rows, *splits)
    return Matched(
        place=videos.place,
        by_row={row: by_row[row] for row in chosen.tolist()},
        no_clip=no_clip,
        no_video=[clips.clip_ids[row] for row in missing(usable, chosen)],
        splits=splits,
        n_clips=len(usable),
    )


def missing(usable: Int[np.ndarray, " n"], chosen: Int[np.ndarray, " m"]) -> list[int]:
    return np.setdiff1d(usable, chosen).tolist()
