"""Whether predicted videos keep the objects: sightings in every frame, by method, and their scores.

Only against the camera's frames, and only where the source has exact masks. An object that is moved
must go along with the hand; one at rest must stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from stages.drawing.csv_table import csv_table
from stages.objects.masks import TrueObjects
from stages.objects.object_scores import ObjectScores, object_scores
from stages.objects.sightings import Sighting, sightings

OBJECTS, MOVED_OBJECTS, RESTING_OBJECTS = "objects", "moved objects", "objects at rest"
OBJECT_REGIONS = (OBJECTS, MOVED_OBJECTS, RESTING_OBJECTS)
# Moved: by more than objects are wide, so that a copy of frame 0 has nothing of them there. What
# lies between moved and at rest is in neither group.
AWAY_M, AT_HOME_M = 0.08, 0.02
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
    for region in OBJECT_REGIONS:
        chosen = [s for s in seen if in_region(s, region)]
        scores = object_scores(chosen)
        if scores is None:
            continue
        yield (region, "psnr"), scores.psnr
        yield (region, "delta_e"), scores.delta_e
        if scores.named is not None:
            yield (region, "named"), scores.named
        for metric, frame in times_judged(n_frames).items():
            there = object_scores([s for s in chosen if s.frame == frame])
            if there is not None:
                yield (region, metric), there.present


def times_judged(n_frames: int) -> dict[str, int]:
    """The frames at which permanence is judged: half-way, and the last one."""
    return {HALF: n_frames // 2, END: n_frames - 1}


def scores_at(
    clips: Sequence[Sequence[MethodSightings]], protocol: str, method: str, frame: int
) -> dict[str, ObjectScores]:
    """By region: the objects of all clips together, at a frame. None are there: no such region."""
    seen = [s for s in pooled(clips, protocol, method) if s.frame == frame]
    found = {r: object_scores([s for s in seen if in_region(s, r)]) for r in OBJECT_REGIONS}
    return {region: scores for region, scores in found.items() if scores is not None}


def in_region(seen: Sighting, region: str) -> bool:
    if region == OBJECTS:
        return True
    return seen.moved_m > AWAY_M if region == MOVED_OBJECTS else seen.moved_m < AT_HOME_M


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


def objects_csv(clips: Mapping[str, Sequence[MethodSightings]]) -> bytes:
    """Every sighting of every method, by clip id."""
    columns = ("frame", "object", "area", "moved_m", "named", "present", "squared_error", "delta_e")
    rows = (
        (clip_id, protocol, watched.method, *(getattr(seen, name) for name in columns))
        for clip_id, of_clip in clips.items()
        for watched in of_clip
        for seen in watched.seen
        for protocol in watched.protocols
    )
    return csv_table(("clip", "protocol", "method", *columns), rows)
