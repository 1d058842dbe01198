"""What annotators need to know of clips ahead, and whether they can work with one's frames at all."""

from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from stages.base import ClipInputs, Rejected

AnnotatorT = TypeVar("AnnotatorT")


def informed(annotator: AnnotatorT, **facts: int) -> AnnotatorT:
    """The annotator with those of its stage's facts (sizes, numbers of points) that it has a field for."""
    names = {f.name for f in fields(annotator)}  # type: ignore[arg-type]
    return replace(annotator, **{name: value for name, value in facts.items() if name in names})  # type: ignore[type-var]


def check_frames(clip: ClipInputs, n_frames: int, min_contrast: float, stage: str) -> None:
    """Raises ValueError for a clip of another length or dtype, Rejected (`blank_frame`) where a frame has no contrast.

    Frames of uint8 hold no NaN; others could, and their scale is not known.
    min_contrast: least standard deviation of a frame's grey levels (0-255).
    """
    rgb = clip.arrays["rgb"]
    if rgb.dtype != np.uint8:
        raise ValueError(
            f"clip {clip.clip_id}: frames of {rgb.dtype}, stage '{stage}' expects uint8 in 0-255, as stage 'clip' "
            "writes them: convert them"
        )
    if len(rgb) != n_frames:
        raise ValueError(
            f"clip {clip.clip_id}: {len(rgb)} frames, stage '{stage}' is set to n_frames={n_frames}; give stages "
            f"'clip' and '{stage}' the same"
        )
    contrast = rgb.mean(axis=3).std(axis=(1, 2))
    dullest = int(contrast.argmin())
    if contrast[dullest] < min_contrast:
        raise Rejected(
            "blank_frame",
            f"frame {dullest}: grey levels have a standard deviation of {contrast[dullest]:.2f}, at least "
            f"{min_contrast:g} is needed to see or follow anything",
        )
