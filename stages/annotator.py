"""Settings that the paper's annotators share: wrong ones are refused where an annotator is built,
not clip by clip.
"""

from dataclasses import fields, replace
from typing import Any, TypeVar, get_args

import numpy as np

from stages.base import ClipInputs, Rejected


def check_choice(who: str, name: str, value: object, choices: Any) -> None:
    """Raises ValueError for a value that is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{who}: {name}={value!r}, expected one of {', '.join(get_args(choices))}")


def check_share(who: str, precision: str, gpus: float, clips_per_call: int) -> None:
    """Raises ValueError for a share of a worker's device that does not go with the precision, or is
    none.
    """
    if clips_per_call < 1:
        raise ValueError(f"{who}: clips_per_call={clips_per_call}, expected 1 or more")
    if gpus < 0:
        raise ValueError(f"{who}: gpus={gpus:g}, expected 0 or more")
    if precision != "float32" and not gpus:
        raise ValueError(
            f"{who}: precision={precision!r} with gpus=0, but half precision is for GPUs: set gpus too (0.5 is half "
            "a card), or take precision=float32"
        )


AnnotatorT = TypeVar("AnnotatorT")


def informed(annotator: AnnotatorT, **facts: int) -> AnnotatorT:
    """The annotator with those of its stage's facts (sizes, numbers of points) that it has a field
    for.
    """
    names = {f.name for f in fields(annotator)}  # type: ignore[arg-type]
    return replace(annotator, **{name: value for name, value in facts.items() if name in names})  # type: ignore[type-var]


def check_frames(clip: ClipInputs, n_frames: int, min_contrast: float, stage: str) -> None:
    """Raises ValueError for a clip of another length or dtype, Rejected (`blank_frame`) where a
    frame has no contrast.

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
