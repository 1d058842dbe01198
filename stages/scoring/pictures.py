"""The best clip, the median one and the worst: true frames, scored ones, and their difference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from stages.drawing.pictures import Image8, contact_sheet, spread, strip
from stages.evaluation.pictures import FRAMES_SHOWN
from stages.evaluation.scores import CAMERA, COPY, FRAME, FREE, Cell
from stages.scoring.scores import ScoredClip, ScoredVideo
from stages.tokenizer.images import images_to_rgb

AMPLIFIED = 4  # the difference is shown so many times as large


def extremes(clips: Sequence[ScoredClip], method: str) -> list[tuple[str, ScoredClip]]:
    """(label, clip) of the highest, the median and the lowest PSNR of a method, each clip once."""
    cell = Cell(FREE, CAMERA, FRAME, method, "psnr")
    measured = [clip for clip in clips if cell in clip.scores]
    ordered = sorted(measured, key=lambda clip: clip.scores[cell], reverse=True)
    places = {0: "best", len(ordered) - 1: "worst"}
    if len(ordered) > 2:
        places[len(ordered) // 2] = "median"
    return [(places[place], ordered[place]) for place in sorted(places)]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip and one of its videos, at the clip's times and size; images are in [-1, 1]."""

    label: str
    clip: ScoredClip
    drawn: ScoredVideo
    camera: UInt8[np.ndarray, "t h w 3"]
    images: Float[Tensor, "t 3 h w"]


def picture_page(shown: Sequence[Shown], rate_hz: float) -> Image8:
    return contact_sheet([draw_strip(each, rate_hz) for each in shown])


def draw_strip(shown: Shown, rate_hz: float) -> Image8:
    camera, frames = shown.camera, images_to_rgb(shown.images)
    at = spread(len(camera), FRAMES_SHOWN)
    apart = abs(frames[at].astype(np.int16) - camera[at]) * AMPLIFIED
    rows = [
        ("camera", camera[at]),
        ("scored", frames[at]),
        (f"difference\nx {AMPLIFIED}", np.minimum(apart, 255).astype(np.uint8)),
    ]
    columns = [f"{t / rate_hz:.1f} s" if t else "0 s (given)" for t in at]
    title = f"{shown.label}: clip {shown.clip.clip_id}"
    return strip(rows, columns=columns, title=title, note=note(shown), cell_px=128)


def note(shown: Shown) -> str:
    """PSNR of the drawn video, and of the copy of frame 0."""
    ours = next(
        value
        for cell, value in shown.drawn.scores.items()
        if (cell.region, cell.metric) == (FRAME, "psnr")
    )
    theirs = shown.clip.copied.scores[Cell(FREE, CAMERA, FRAME, COPY, "psnr")]
    return f"{shown.drawn.video}: {ours:.1f} dB (copying frame 0: {theirs:.1f})"
