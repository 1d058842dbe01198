"""Whether predicted videos keep the objects: sightings in every frame, by method, and their scores.

Only against the camera's frames, and only where the source has exact masks. An object that is moved
must go along with the hand; one at rest must stay.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from stages.objects.masks import TrueObjects
from stages.objects.object_scores import object_scores, psnr_of
from stages.objects.sightings import Sighting, sightings

OBJECTS, MOVED_OBJECTS, RESTING_OBJECTS = (
    "objects",
    "objects that were moved",
    "objects at rest",
)
OBJECT_REGIONS = (OBJECTS, MOVED_OBJECTS, RESTING_OBJECTS)
HALF, END = "present_half", "present_end"


@dataclass(frozen=True, kw_only=True)
class MethodSightings:
    """The objects of one clip's frames after frame 0, as one method's video shows them."""

    protocols: tuple[str, ...]  # that the video belongs to
    method: str
    seen: Sequence[Sighting]


Video = Float[Tensor, "t c h w"]


def watch_objects(
    candidates: Sequence[tuple[tuple[str, ...], str, Video]],
    camera: Video,
    objects: TrueObjects,
) -> list[MethodSightings]:
    frames = range(1, len(camera))
    return [
        MethodSightings(
            protocols=protocols, method=method, seen=sightings(video, camera, objects, frames)
        )
        for protocols, method, video in candidates
    ]


def object_numbers(
    seen: Sequence[Sighting], n_frames: int
) -> Iterator[tuple[tuple[str, str], float]]:
    """(region, metric) -> value of one method in one clip; nothing for a region without objects."""
    regions = (
        (OBJECTS, list(seen)),
        (MOVED_OBJECTS, [s for s in seen if s.moved]),
        (RESTING_OBJECTS, [s for s in seen if not s.moved]),
    )
    for region, chosen in regions:
        scores = object_scores(chosen)
        if scores is None:
            continue
        yield (region, "psnr"), scores.psnr
        yield (region, "delta_e"), scores.delta_e
        if scores.named is not None:
            yield (region, "named"), scores.named
        for metric, frame in times_judged(n_frames).items():
            there = [s.present for s in chosen if s.frame == frame]
            if there:
                yield (region, metric), float(np.mean(there))


def times_judged(n_frames: int) -> dict[str, int]:
    """The frames at which permanence is judged: half-way, and the last one."""
    return {HALF: n_frames // 2, END: n_frames - 1}


@dataclass(frozen=True, kw_only=True)
class Permanence:
    """Of all objects of all clips at one moment, pooled."""

    region: str
    n: int
    share: float  # present


def permanence(
    clips: Sequence[Sequence[MethodSightings]], protocol: str, method: str, frame: int
) -> list[Permanence]:
    """The share of objects present at a frame, by region; regions without objects are missing."""
    seen = [s for s in pooled(clips, protocol, method) if s.frame == frame]
    found = []
    for region in OBJECT_REGIONS:
        there = [s.present for s in seen if in_region(s, region)]
        if there:
            found.append(Permanence(region=region, n=len(there), share=float(np.mean(there))))
    return found


def in_region(seen: Sighting, region: str) -> bool:
    return region == OBJECTS or seen.moved == (region == MOVED_OBJECTS)


def pooled(
    clips: Sequence[Sequence[MethodSightings]], protocol: str, method: str
) -> list[Sighting]:
    return [
        seen
        for clip in clips
        for watched in clip
        if watched.method == method and protocol in watched.protocols
        for seen in watched.seen
    ]


def psnr_by_frame(seen: Sequence[Sighting], n_frames: int) -> Float[np.ndarray, " t"]:
    """PSNR inside objects in dB at each frame, all clips together; NaN where there is none."""
    values = np.full(n_frames, np.nan)
    for t in range(n_frames):
        errors = [s.squared_error for s in seen if s.frame == t]
        if errors:
            values[t] = psnr_of(float(np.mean(errors)))
    return values


def objects_csv(clips: Mapping[str, Sequence[MethodSightings]]) -> bytes:
    """Every sighting of every method, by clip id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("frame", "object", "area", "moved", "named", "present", "squared_error", "delta_e")
    writer.writerow(["clip", "protocol", "method", *columns])
    for clip_id, watched in clips.items():
        for of_method in watched:
            for seen in of_method.seen:
                values = [getattr(seen, name) for name in columns]
                shown = [f"{v:.6f}" if isinstance(v, float) else v for v in values]
                for protocol in of_method.protocols:
                    writer.writerow([clip_id, protocol, of_method.method, *shown])
    return text.getvalue().encode()
