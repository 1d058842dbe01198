"""One clip's videos, brought to its times and size -> the same scores as the evaluation's.

Only against the camera's frames, and only free-running: what a video was made from is not known
beyond its first frame. Of several seeds of a clip, a method's score is their mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from model.lpips import Lpips
from model.metrics import frame_psnr
from model.value_range import IMAGES
from stages.evaluation.estimated_depth import EstimatedDepth
from stages.evaluation.objects import MethodSightings, object_numbers, watch_objects
from stages.evaluation.scores import (
    CAMERA,
    COPY,
    FREE,
    MOVING,
    MOVING_CAMERA,
    Cell,
    FrameScores,
    Scores,
    compare,
    copy_first,
)
from stages.objects.masks import TrueObjects
from stages.scoring.videos import VideoFile
from stages.tokenizer.images import moving_mask

Images = Float[Tensor, "t c h w"]


@dataclass(frozen=True, kw_only=True)
class ScoredVideo:
    """first_psnr: of its frame 0, which is given and not scored, against the clip's, in dB."""

    video: VideoFile
    scores: Scores
    by_frame: FrameScores
    watched: Sequence[MethodSightings]
    first_psnr: float


@dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """A clip with its videos, and the copy of frame 0 (`copied`, whose first_psnr says nothing)."""

    clip_id: str
    episode: str  # task/episode
    videos: Sequence[ScoredVideo]
    copied: ScoredVideo

    @property
    def scores(self) -> Scores:
        """Of the clip: the mean over the seeds in which each number was measured."""
        found: dict[Cell, list[float]] = {}
        for video in (*self.videos, self.copied):
            for cell, value in video.scores.items():
                found.setdefault(cell, []).append(value)
        return {cell: float(np.mean(values)) for cell, values in found.items()}

    @property
    def watched(self) -> list[MethodSightings]:
        return [seen for video in (*self.videos, self.copied) for seen in video.watched]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A clip as its videos are compared with it."""

    clip_id: str
    episode: str
    camera: Images
    objects: TrueObjects | None

    @property
    def moving(self) -> Bool[Tensor, "t h w"]:
        return moving_mask(self.camera, still=self.camera[:1])


def score_clip(
    target: Target,
    videos: Mapping[VideoFile, Images],
    methods: Mapping[VideoFile, str],
    perceptual: Lpips | None,
    estimate_depth: EstimatedDepth | None = None,
) -> ScoredClip:
    """methods: the name of the method of each video. Images are in [-1, 1], of all frames."""
    moving, copied = target.moving, copy_first(target.camera)
    depth = estimated(target, [*videos.values()], copied, estimate_depth)

    def score(video: VideoFile, images: Images, method: str) -> ScoredVideo:
        return score_video(target, video, images, method, moving, perceptual)

    scored = [score(video, images, methods[video]) for video, images in videos.items()]
    scored.append(score(next(iter(videos)), copied, COPY))
    names = [*(methods[video] for video in videos), COPY]
    *scored, of_copy = (
        replace(each, scores=each.scores | of_method(found, name))
        for each, found, name in zip(scored, depth, names, strict=True)
    )
    return ScoredClip(clip_id=target.clip_id, episode=target.episode, videos=scored, copied=of_copy)


def estimated(
    target: Target, videos: Sequence[Images], copied: Images, estimate: EstimatedDepth | None
) -> list[Scores]:
    """Of each video, then of the copy; without scores if one of them has no depth."""
    every = [*videos, copied]
    if estimate is None:
        return [{} for _ in every]
    numbered = [((FREE,), str(i), video) for i, video in enumerate(every)]
    found = estimate(target.clip_id, target.camera, numbered)
    return [
        {cell: value for cell, value in found.items() if cell.method == str(i)}
        for i in range(len(every))
    ]


def of_method(scores: Scores, method: str) -> Scores:
    return {cell._replace(method=method): value for cell, value in scores.items()}


def score_video(
    target: Target,
    video: VideoFile,
    images: Images,
    method: str,
    moving: Bool[Tensor, "t h w"],
    perceptual: Lpips | None,
) -> ScoredVideo:
    camera = target.camera

    def cell(region: str, metric: str) -> Cell:
        return Cell(FREE, CAMERA, MOVING_CAMERA if region == MOVING else region, method, metric)

    found = compare(images, camera, moving, perceptual)
    scores: Scores = {cell(*place): value for place, value in found.scores.items()}
    watched = list[MethodSightings]()
    if target.objects is not None:
        watched = watch_objects([((FREE,), method, images)], camera, target.objects)
    for of_method in watched:
        scores |= {cell(*at): x for at, x in object_numbers(of_method.seen, len(camera))}
    return ScoredVideo(
        video=video,
        scores=scores,
        by_frame={cell(*place): values for place, values in found.by_frame.items()},
        watched=watched,
        first_psnr=frame_psnr(images[None, :1], camera[None, :1], value_range=IMAGES).item(),
    )
