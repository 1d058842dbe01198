"""One held-out clip, true and predicted -> scores, each named by its cell of the tables.

Frame 0 is given to every method and never scored. Protocols (two) and references (decoded true
tokens and camera frames for pictures; pseudo labels for depth and tracks, the exact depth of
simulated episodes, and depth estimated from the camera's frames) are never mixed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model import metrics
from model.detail_metrics import chroma_psnr, detail_psnr
from model.lpips import Lpips
from model.steadiness import edge_sharpness, flicker
from model.value_range import IMAGES
from stages.evaluation.controls import Controls
from stages.evaluation.linear_motion import carry_on
from stages.evaluation.objects import MethodSightings, object_numbers, watch_objects
from stages.objects.masks import TrueObjects
from stages.tokenizer.images import moving_mask

FREE, TEACHER = "free-running", "teacher-forced"
PROTOCOLS = (FREE, TEACHER)
DECODED, CAMERA, PSEUDO_DEPTH = "decoded true tokens", "camera frames", "pseudo depth"
TRUE_DEPTH = "true depth"
ESTIMATED_DEPTH, PSEUDO_TRACKS = "estimated depth", "pseudo tracks"
REFERENCES = (CAMERA, DECODED, PSEUDO_DEPTH, TRUE_DEPTH, ESTIMATED_DEPTH, PSEUDO_TRACKS)
FRAME, MOVING, DETAIL = "whole frame", "moving region", "most detailed tenth"
STILL, EDGES = "still region", "depth edges"
ACTIVE, GRIPPER = "active points", "grippers"
# Where the camera's own frames differ from frame 0, for videos that have no tokens. `MOVING` is
# where the decoded ones do, so it depends on a tokenizer: numbers of the two are not comparable.
MOVING_CAMERA = "moving region of the camera"
MODEL, COPY, PREVIOUS, LINEAR, CEILING, TRACKED = (
    "world model",
    "copy of frame 0",
    "copy of the frame before",
    "linear motion by optical flow",
    "tokenizer's ceiling",
    "the camera frames themselves",  # what remains is the tracker's error
)
# Stand in every table beside what is evaluated
BASELINES = (COPY, PREVIOUS, LINEAR, CEILING, TRACKED)

# Depths beyond this many times the clip's near end count as this far, true and predicted alike
FARTHEST_RATIO = 100.0


class Cell(NamedTuple):
    """The place of a number in the tables."""

    protocol: str
    reference: str
    region: str
    method: str
    metric: str


# A video to be scored, in [-1, 1]: protocols, method, all frames
Candidate = tuple[tuple[str, ...], str, Float[Tensor, "t c h w"]]

# Of one clip, without what cannot be measured, such as the moving region of a still clip
Scores = dict[Cell, float]
# The same at each frame after frame 0, NaN where a frame has none
FrameScores = dict[Cell, list[float]]


@dataclass(frozen=True, kw_only=True)
class ClipDepth:
    """Inverse depth in the annotator's units; `limits`: stored range, `predicted`: by protocol."""

    target: Float[Tensor, "t h w"]
    valid: Bool[Tensor, "t h w"]
    limits: tuple[float, float]
    decoded: Float[Tensor, "t h w"]
    predicted: Mapping[str, Float[Tensor, "t h w"]]


@dataclass(frozen=True, kw_only=True)
class ClipVideos:
    """Images in [-1, 1] of all frames; `predicted` is by protocol, with frame 0 given."""

    clip_id: str
    camera: Float[Tensor, "t c h w"]
    decoded: Float[Tensor, "t c h w"]
    predicted: Mapping[str, Float[Tensor, "t c h w"]]
    depth: ClipDepth | None
    # Free-running under other actions, by the metric that they are for
    controls: Controls[Float[Tensor, "t c h w"]] = field(default_factory=dict)
    # By the labels, which there are also without a depth branch
    edges: Bool[Tensor, "t h w"] | None = None
    objects: TrueObjects | None = None  # where there is a truth

    @cached_property
    def carried_on(self) -> Mapping[str, Float[Tensor, "t c h w"] | None]:
        """Linear motion, by reference. Kept, since every measure asks for it again."""
        return {CAMERA: carry_on(self.camera), DECODED: carry_on(self.decoded)}


@dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """watched: the objects, by method; empty without a truth."""

    clip_id: str
    scores: Scores
    by_frame: FrameScores
    watched: Sequence[MethodSightings] = ()


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """A video against its target, by (region, metric): all frames after frame 0, and each one."""

    scores: dict[tuple[str, str], float]
    by_frame: dict[tuple[str, str], list[float]]


def scored(clip: ClipVideos, perceptual: Lpips | None, more: Sequence[Scores] = ()) -> ScoredClip:
    """All scores of a clip, those of its objects among them. more: what annotators have found."""
    found = with_camera_motion(score_clip(clip, perceptual), clip)
    for each in more:
        found = replace(found, scores=found.scores | each)
    if clip.objects is None:
        return found
    watched = watch_objects(list(candidates(clip, CAMERA)), clip.camera, clip.objects)
    scores = dict(found.scores)
    for of_method in watched:
        for (region, metric), value in object_numbers(of_method.seen, len(clip.camera)):
            for protocol in of_method.protocols:
                scores[Cell(protocol, CAMERA, region, of_method.method, metric)] = value
    return replace(found, scores=scores, watched=watched)


def score_clip(clip: ClipVideos, perceptual: Lpips | None) -> ScoredClip:
    """The scores that any source allows."""
    moving = moving_mask(clip.decoded, still=clip.decoded[:1])
    scores: Scores = {}
    by_frame: FrameScores = {}
    for reference, target in ((CAMERA, clip.camera), (DECODED, clip.decoded)):
        for protocols, method, video in candidates(clip, reference):
            found = compare(video, target, moving, perceptual)
            for protocol in protocols:
                for (region, metric), value in found.scores.items():
                    scores[Cell(protocol, reference, region, method, metric)] = value
                for (region, metric), values in found.by_frame.items():
                    by_frame[Cell(protocol, reference, region, method, metric)] = values
        under = score_controls(clip.controls, by_frame, reference, target, moving)
        scores |= {cell: float(np.nanmean(values)) for cell, values in under.items()}
        by_frame |= under
    scores |= score_steadiness(clip, moving)
    if clip.depth is not None:
        scores |= score_depth(clip.depth)
    return ScoredClip(clip_id=clip.clip_id, scores=scores, by_frame=by_frame)


def score_controls(
    controls: Controls[Float[Tensor, "t c h w"]],
    by_frame: FrameScores,
    reference: str,
    target: Float[Tensor, "t c h w"],
    moving: Bool[Tensor, "t h w"],
) -> FrameScores:
    """ΔPSNR of each frame, in each form: `by_frame`, which has the PSNR under the true actions,
    less the mean over the form's draws.
    """
    found: FrameScores = {}
    for metric, draws in controls.items():
        under = [frames_psnr(video, target, moving) for video in draws]
        for region in under[0]:
            true = by_frame[Cell(FREE, reference, region, MODEL, "psnr")]
            other = np.mean([values[region] for values in under], axis=0)
            cell = Cell(FREE, reference, region, MODEL, metric)
            found[cell] = (np.array(true) - other).tolist()
    return found


def score_steadiness(clip: ClipVideos, moving: Bool[Tensor, "t h w"]) -> Scores:
    """Flicker where nothing ever moves, and sharpness at the edges of depth, where there are any.

    Against the camera's frames alone.
    """
    still = ~moving.any(0)
    edges = None if clip.edges is None or not clip.edges[1:].any() else clip.edges[None, 1:]
    scores: Scores = {}
    for protocols, method, video in candidates(clip, CAMERA):
        found: dict[tuple[str, str], float] = {}
        ours, true = video[None, 1:], clip.camera[None, 1:]
        if still.any() and len(video) > 2:
            found[STILL, "flicker"] = flicker(ours, still[None], value_range=IMAGES).item()
        if edges is not None:
            sharpness = edge_sharpness(ours, true, edges, value_range=IMAGES)
            found[EDGES, "edge_sharpness"] = sharpness.item()
        scores |= {
            Cell(protocol, CAMERA, region, method, metric): value
            for (region, metric), value in found.items()
            for protocol in protocols
            if not np.isnan(value)
        }
    return scores


def with_camera_motion(found: ScoredClip, clip: ClipVideos) -> ScoredClip:
    """Adds PSNR where the camera's own frames move, as videos without tokens are scored."""
    moving = moving_mask(clip.camera, still=clip.camera[:1])[None, 1:]
    if not moving.any():
        return found
    scores, by_frame = dict(found.scores), dict(found.by_frame)
    for protocols, method, video in candidates(clip, CAMERA):
        pair = (video[None, 1:], clip.camera[None, 1:])
        values = metrics.frame_psnr(*pair, moving, value_range=IMAGES)[0].tolist()
        for protocol in protocols:
            cell = Cell(protocol, CAMERA, MOVING_CAMERA, method, "psnr")
            scores[cell], by_frame[cell] = float(np.nanmean(values)), values
    return replace(found, scores=scores, by_frame=by_frame)


def candidates(clip: ClipVideos, reference: str) -> Iterator[Candidate]:
    """All to compare with a reference, whose frames the baselines copy."""
    for protocol in PROTOCOLS:
        yield (protocol,), MODEL, clip.predicted[protocol]
    source = clip.decoded if reference == DECODED else clip.camera
    yield PROTOCOLS, COPY, copy_first(source)
    # Only teacher forcing knows the true frames before
    yield (TEACHER,), PREVIOUS, torch.cat([source[:1], source[:-1]])
    if (carried := clip.carried_on[reference]) is not None:
        yield (TEACHER,), LINEAR, carried
    if reference == CAMERA:
        yield PROTOCOLS, CEILING, clip.decoded


def copy_first(video: Float[Tensor, "t *any"]) -> Float[Tensor, "t *any"]:
    return video[:1].expand_as(video)


def compare(
    video: Float[Tensor, "t c h w"],
    target: Float[Tensor, "t c h w"],
    moving: Bool[Tensor, "t h w"],
    perceptual: Lpips | None,
) -> VideoScores:
    by_frame = {
        (region, "psnr"): values for region, values in frames_psnr(video, target, moving).items()
    }
    found = {place: float(np.nanmean(values)) for place, values in by_frame.items()}
    ours, true, mask = video[None, 1:], target[None, 1:], moving[None, 1:]
    found[DETAIL, "psnr"] = detail_psnr(ours, true, value_range=IMAGES).item()
    found[FRAME, "psnr_chroma"] = chroma_psnr(ours, true, value_range=IMAGES).item()
    similarity, edge = metrics.ssim_map(ours, true, value_range=IMAGES), metrics.SSIM_EDGE
    inner = mask[..., edge:-edge, edge:-edge]
    by_frame[FRAME, "ssim"] = similarity.mean(dim=(2, 3))[0].tolist()
    found[FRAME, "ssim"] = similarity.mean().item()
    if inner.any():
        found[MOVING, "ssim"] = similarity[inner].mean().item()
    if perceptual is not None:
        device = perceptual.shift.device
        pair = (ours.to(device), true.to(device))
        found[FRAME, "lpips"] = metrics.lpips(perceptual, *pair, value_range=IMAGES).item()
    return VideoScores(scores=found, by_frame=by_frame)


def frames_psnr(
    video: Float[Tensor, "t c h w"], target: Float[Tensor, "t c h w"], moving: Bool[Tensor, "t h w"]
) -> dict[str, list[float]]:
    """PSNR by region of each frame after frame 0, in dB; NaN in one where nothing moves.

    Equal frames count as `metrics.MAX_PSNR`.
    """
    ours, true, mask = video[None, 1:], target[None, 1:], moving[None, 1:]
    found = {FRAME: metrics.frame_psnr(ours, true, value_range=IMAGES)[0].tolist()}
    if mask.any():
        found[MOVING] = metrics.frame_psnr(ours, true, mask, value_range=IMAGES)[0].tolist()
    return found


def score_depth(depth: ClipDepth, reference: str = PSEUDO_DEPTH) -> Scores:
    """AbsRel, δ1 and δ2 where the target is valid, raw and after one scale and shift a clip.

    The baseline copies frame 0 of the decoded true tokens, which has a depth for every pixel.
    """
    if not depth.valid[1:].any():
        return {}
    methods = [((protocol,), MODEL, depth.predicted[protocol]) for protocol in PROTOCOLS]
    methods += [(PROTOCOLS, COPY, copy_first(depth.decoded)), (PROTOCOLS, CEILING, depth.decoded)]
    scores: Scores = {}
    for protocols, method, inverse in methods:
        for metric, value in compare_depth(inverse, depth).items():
            scores |= {
                Cell(protocol, reference, FRAME, method, metric): value for protocol in protocols
            }
    return scores


def compare_depth(inverse_depth: Float[Tensor, "t h w"], depth: ClipDepth) -> dict[str, float]:
    farthest = FARTHEST_RATIO / depth.limits[1]
    ours, true = inverse_depth[None, 1:], depth.target[None, 1:]
    valid = depth.valid[None, 1:]
    target = metrics.depth_from_inverse(true, farthest=farthest)
    aligned = metrics.align_scale_shift(predicted_inverse=ours, target_inverse=true, valid=valid)
    found = {}
    for suffix, inverse in (("", ours), ("_aligned", aligned)):
        guess = metrics.depth_from_inverse(inverse, farthest=farthest)
        found[f"abs_rel{suffix}"] = metrics.abs_rel(
            predicted_depth=guess, target_depth=target, valid=valid
        ).item()
        for n in (1, 2):
            found[f"delta{n}{suffix}"] = metrics.delta_accuracy(
                predicted_depth=guess, target_depth=target, valid=valid, n=n
            ).item()
    return found
