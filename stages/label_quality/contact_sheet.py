"""The contact sheet of a data set's labels: frames, depth and tracks of clips side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from stages.drawing.pictures import Row, colour_depth, contact_sheet, draw_tracks, strip
from stages.label_quality.labels import AnnotatorInfo, Labels

CLIPS, COLUMNS = 6, 3
CELL_PX = 112
MAX_POINTS = 400  # more would hide what is below them


@dataclass(frozen=True, kw_only=True)
class SheetClip:
    """rows: label and frames of each; note: text below the title."""

    title: str
    note: str
    rows: Sequence[Row]


def label_rows(
    labels: Labels, annotators: Mapping[str, AnnotatorInfo], shown: Sequence[int]
) -> list[Row]:
    """Camera, depth and tracks at the frames `shown`."""
    at = list(shown)
    depth = colour_depth(labels.inverse_depth[at], labels.valid[at], labels.inverse_depth_range)
    tracks = draw_thinned(labels.rgb, labels.tracks, labels.visible)[at]
    return [
        ("camera", labels.rgb[at]),
        (f"depth\n({annotators['depth'].name})", depth),
        (f"keypoints\n({annotators['keypoints'].name})", tracks),
    ]


def draw_thinned(
    rgb: UInt8[np.ndarray, "t h w 3"],
    tracks: Float32[np.ndarray, "t p 2"],
    visible: Bool[np.ndarray, "t p"],
) -> UInt8[np.ndarray, "t scaled_h scaled_w 3"]:
    """Every n-th track, drawn; n is odd, as an even one might give a few columns of a grid."""
    step = -(-tracks.shape[1] // MAX_POINTS) | 1
    return draw_tracks(rgb, tracks[:, ::step], visible[:, ::step])


def label_sheet(
    clips: Sequence[SheetClip], *, title: str = "", note: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """One page, wider than high, so that a report can show all of it; row labels at the left."""
    blocks, n_lines = [], max((clip.note.count("\n") for clip in clips), default=0) + 1
    for i, clip in enumerate(clips):
        rows = clip.rows if i % COLUMNS == 0 else [("", frames) for _, frames in clip.rows]
        # Notes of as many lines each, so that frames align
        below = clip.note + "\n" * (n_lines - clip.note.count("\n"))
        blocks.append(strip(rows, title=clip.title, note=below, cell_px=CELL_PX))
    return contact_sheet(blocks, columns=COLUMNS, title=title, note=note)
