"""Whether a video still shows the objects of the true one: by colour, place and pixel error.

One `Sighting` is one object in one frame. "Named rightly" asks which object's colour the video has
there; "present" also allows that the object is gone and only its surroundings are seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from model.colour import ciede2000, lab
from stages.objects.masks import NO_OBJECT, TrueObjects

# Smaller ones are not judged: 40 px of 128 x 128, as a share of the frame
MIN_AREA = 40 / 128**2
# How far beside its true place an object may be and still count as present, in frame widths
PLACE_TOLERANCE = 1 / 32
RING = 1 / 32  # width of the surroundings, in frame widths


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One object in one frame, as the video shows it. Colours are CIELAB."""

    frame: int
    object: int
    area: float  # share of the frame's pixels that show it
    moved_m: float  # how far it is from its place of frame 0
    # Whether the mean colour at its true place is nearest to its own, of all large objects in the
    # frame; None if there is no other
    named: bool | None
    present: bool  # whether that is so near its true place, its surroundings among the choices
    squared_error: float  # mean over its pixels and channels, of a range of 2
    colour_error: float  # ΔE76 between its mean colour and that of the video there
    delta_e: float  # ΔE00, mean over its pixels


def sightings(
    video: Float[Tensor, "t c h w"],
    camera: Float[Tensor, "t c h w"],
    objects: TrueObjects,
    frames: Sequence[int] | None = None,
) -> list[Sighting]:
    """Every object of at least MIN_AREA in these frames (all), as `video` shows it.

    camera: the true frames, both in [-1, 1].
    """
    wanted = range(len(video)) if frames is None else frames
    found: list[Sighting] = []
    for t in wanted:
        found += frame_sightings(t, video[t], camera[t], objects.masks[t], objects.moved_m[t])
    return found


def frame_sightings(
    frame: int,
    image: Float[Tensor, "c h w"],
    camera: Float[Tensor, "c h w"],
    mask: UInt8[np.ndarray, "h w"],
    moved_m: Float[np.ndarray, " o"],
) -> Iterator[Sighting]:
    """The objects of one frame."""
    large = [n for n in object_numbers(mask) if (mask == n).mean() >= MIN_AREA]
    if not large:
        return
    ours, true = channels_last(lab(image)), channels_last(lab(camera))
    error = (image - camera).double().square().mean(0).numpy()
    means = np.stack([true[mask == n].mean(0) for n in large])
    for i, n in enumerate(large):
        at = mask == n
        shown = ours[at].mean(0)
        around = true[surroundings(mask, n)]
        others = [around.mean(0)] if len(around) else []
        delta = ciede2000(torch.from_numpy(ours[at]), torch.from_numpy(true[at]))
        yield Sighting(
            frame=frame,
            object=n,
            area=float(at.mean()),
            moved_m=float(moved_m[n]),
            named=nearest(shown, means) == i if len(large) > 1 else None,
            present=any(
                nearest(colour, np.stack([*means, *others])) == i
                for colour in colours_near(ours, at)
            ),
            squared_error=float(error[at].mean()),
            colour_error=float(np.linalg.norm(shown - means[i])),
            delta_e=float(delta.mean()),
        )


def without_objects(
    camera: Float[Tensor, "t c h w"], masks: UInt8[np.ndarray, "t h w"]
) -> Float[Tensor, "t c h w"]:
    """The frames with every object filled with the mean colour of its surroundings.

    What a tokenizer shows that erases objects: the control of every score in this file.
    """
    filled = camera.clone()
    for image, true, mask in zip(filled, camera, masks, strict=True):
        for n in object_numbers(mask):
            ring = surroundings(mask, n)
            if ring.any():
                image[:, torch.from_numpy(mask == n)] = true[:, torch.from_numpy(ring)].mean(
                    1, keepdim=True
                )
    return filled


# One frame's masks


def object_numbers(mask: UInt8[np.ndarray, "h w"]) -> list[int]:
    return [int(n) for n in np.unique(mask) if n != NO_OBJECT]


def surroundings(mask: UInt8[np.ndarray, "h w"], n: int) -> Bool[np.ndarray, "h w"]:
    """The pixels around an object that show no object."""
    width = max(1, round(RING * mask.shape[1]))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return (cv2.dilate((mask == n).astype(np.uint8), kernel) > 0) & (mask == NO_OBJECT)


def colours_near(
    image: Float[np.ndarray, "h w 3"], at: Bool[np.ndarray, "h w"]
) -> Iterator[Float[np.ndarray, " 3"]]:
    """The mean colour under the mask, and under it moved by up to PLACE_TOLERANCE in all directions
    while its centre stays in the frame.
    """
    height, width = at.shape
    y, x = np.nonzero(at)
    far = max(1, round(PLACE_TOLERANCE * width))
    for step in (0, max(1, far // 2), far):
        steps = (-step, 0, step) if step else (0,)
        for dy in steps:
            for dx in steps:
                there_y, there_x = y + dy, x + dx
                inside = (there_y >= 0) & (there_y < height) & (there_x >= 0) & (there_x < width)
                if inside.mean() > 0.5:
                    yield image[there_y[inside], there_x[inside]].mean(0)


def nearest(colour: Float[np.ndarray, " 3"], among: Float[np.ndarray, "n 3"]) -> int:
    return int(np.linalg.norm(among - colour, axis=1).argmin())


def channels_last(image: Float[Tensor, "c h w"]) -> Float[np.ndarray, "h w c"]:
    return image.permute(1, 2, 0).numpy()
