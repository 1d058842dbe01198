"""Accuracy of one clip's labels: depth and tracks against exact ground truth.

Depth as AbsRel and δ1, as it is (annotators with a metric unit) and after one scale and shift per
clip; keypoints as in TAP-Vid ("first" mode), for all points and for those that move. The baseline
is a tracker that says that nothing ever moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Integer
from torch import Tensor

from model import metrics
from model.world.keypoints import select_active_tracks
from simulation.ground_truth import GroundTruth
from stages.exact_labels import (
    FARTHEST_M,
    TrueTracks,
    on_background,
    seen_without_sway,
    true_depth,
    true_tracks,
)
from stages.label_quality.labels import Labels

MOVING_PX = 10.0  # a point whose true path is longer than this, over a clip of 256 px, moves

# Suffix of a number -> whether training takes the camera's motion off before it selects tracks
SELECTIONS = {"": False, "_compensated": True}

Scores = dict[str, float]  # by name; what was not measured is missing


@dataclass(frozen=True, kw_only=True)
class LabelledClip(Labels):
    """One clip with its labels and its source."""

    clip_id: str
    task: int
    episode: int
    split: str
    frame_index: Integer[np.ndarray, " t"]

    @property
    def names(self) -> dict[str, str | int]:
        place = {"task": self.task, "episode": self.episode, "split": self.split}
        return {"clip": self.clip_id, **place}

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb.shape[1], self.rgb.shape[2]


@dataclass(frozen=True, kw_only=True)
class TrueLabels:
    depth_m: Float32[np.ndarray, "t h w"]
    depth_known: Bool[np.ndarray, "t h w"]
    points: TrueTracks
    # The points' paths for a camera that stays where it is in the first frame
    steady_tracks: Float32[np.ndarray, "t p 2"]
    background: Bool[np.ndarray, " p"]  # on what never moves in the world


def true_labels(clip: LabelledClip, truth: GroundTruth) -> TrueLabels:
    """The exact labels of a clip. Raises ValueError if the ground truth is of another video."""
    last, n_frames = clip.frame_index.max(), len(truth.depth_m)
    if last >= n_frames:
        raise ValueError(
            f"clip {clip.clip_id} of episode {clip.task}/{clip.episode} uses frame {last}, its "
            f"true labels have {n_frames} frames: the sample was changed by hand; make it again"
        )
    depth, known = true_depth(truth, clip.frame_index, clip.size)
    points = true_tracks(truth, clip.frame_index, clip.tracks[0], clip.size)
    first = int(clip.frame_index[0])
    return TrueLabels(
        depth_m=depth,
        depth_known=known,
        points=points,
        steady_tracks=seen_without_sway(truth, first, points.places_m, clip.size),
        background=on_background(truth, points),
    )


def score_labels(
    clip: LabelledClip,
    truth: TrueLabels,
    *,
    is_metric: bool,
    n_active: int = 64,
    min_motion: float = 0.03,
) -> Scores:
    """All numbers of one clip. The last two: how training selects tracks."""
    moves = long_paths(truth.points.tracks, truth.points.known, clip.size)
    moves_in_world = long_paths(truth.steady_tracks, truth.points.known, clip.size)
    selected = {
        "active_truly_moving": moves,
        "active_moving_in_world": moves_in_world,
        "active_on_background": truth.background,
    }
    everything = score_track_labels(clip.tracks, clip.visible, truth.points, clip.size)
    moving = score_track_labels(clip.tracks, clip.visible, truth.points, clip.size, among=moves)
    still = score_track_labels(*never_moving(clip), truth.points, clip.size)
    still_moving = score_track_labels(*never_moving(clip), truth.points, clip.size, among=moves)
    return {
        **score_depth_labels(
            clip.inverse_depth, clip.valid, truth.depth_m, truth.depth_known, is_metric=is_metric
        ),
        **everything,
        **{f"{name}_moving": value for name, value in moving.items()},
        **{f"{name}_if_still": value for name, value in still.items()},
        **{f"{name}_moving_if_still": value for name, value in still_moving.items()},
        "moving_points": float(moves.mean()),
        "moving_in_world": float(moves_in_world.mean()),
        **{
            f"{name}{suffix}": value
            for suffix, compensate in SELECTIONS.items()
            for name, value in score_selection(
                active_tracks(clip, n_active, min_motion, compensate_camera=compensate), selected
            ).items()
        },
    }


def score_depth_labels(
    inverse_depth: Float[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
    depth_m: Float32[np.ndarray, "t h w"],
    depth_known: Bool[np.ndarray, "t h w"],
    *,
    is_metric: bool,
) -> Scores:
    """AbsRel and δ1 where both are known; unaligned only in 1/m, as relative depth has no scale."""
    both = torch.from_numpy(valid & depth_known)[None]
    if not both.any():
        return {}
    inverse = torch.from_numpy(inverse_depth.astype(np.float32))[None]
    depth = torch.from_numpy(depth_m)[None]
    aligned = metrics.align_scale_shift(
        predicted_inverse=inverse, target_inverse=torch.where(both, 1 / depth, 0.0), valid=both
    )
    ways = {"": inverse} if is_metric else {}
    scores: Scores = {}
    for suffix, one in (ways | {"_aligned": aligned}).items():
        guess = metrics.depth_from_inverse(one, farthest=FARTHEST_M)
        scores[f"abs_rel{suffix}"] = float(
            metrics.abs_rel(predicted_depth=guess, target_depth=depth, valid=both)
        )
        scores[f"delta1{suffix}"] = float(
            metrics.delta_accuracy(predicted_depth=guess, target_depth=depth, valid=both)
        )
    return scores


def score_track_labels(
    tracks: Float32[np.ndarray, "t p 2"],
    visible: Bool[np.ndarray, "t p"],
    truth: TrueTracks,
    size: tuple[int, int],
    among: Bool[np.ndarray, " p"] | None = None,
) -> Scores:
    """TAP-Vid's three scores of known points (in `among`); none if no such point is ever seen."""
    chosen = truth.known if among is None else truth.known & among
    counted = torch.from_numpy(chosen)[None, None] & after_query(tracks)
    true_seen = torch.from_numpy(truth.visible)[None]
    if not (true_seen & counted).any():
        return {}
    given, seen, target = (torch.from_numpy(a)[None] for a in (tracks, visible, truth.tracks))
    jaccard = metrics.average_jaccard(given, seen, target, true_seen, counted, size)
    return {
        "average_jaccard": float(jaccard),
        "position_accuracy": float(
            metrics.position_accuracy(given, target, true_seen, counted, size)
        ),
        "occlusion_accuracy": float(metrics.occlusion_accuracy(seen, true_seen, counted)),
    }


def after_query(tracks: Float32[np.ndarray, "t p 2"]) -> Bool[Tensor, "1 t p"]:
    """Every frame but the first, in which all points are given."""
    return metrics.frames_after_query(
        torch.zeros((1, tracks.shape[1]), dtype=torch.long), len(tracks)
    )


def long_paths(
    tracks: Float32[np.ndarray, "t p 2"], known: Bool[np.ndarray, " p"], size: tuple[int, int]
) -> Bool[np.ndarray, " p"]:
    """Known points whose true path is long, measured in a picture of 256 x 256 px."""
    scale = metrics.TAPVID_SIDE / np.array([size[1], size[0]])
    path = np.linalg.norm(np.diff(tracks, axis=0) * scale, axis=-1).sum(0)
    return known & (path > MOVING_PX)


def active_tracks(
    clip: LabelledClip, n_active: int, min_motion: float, *, compensate_camera: bool
) -> Integer[np.ndarray, " k"]:
    """The points that training would select as active."""
    size = np.array([clip.size[1], clip.size[0]], np.float32)
    tracks = torch.from_numpy((clip.tracks + np.float32(0.5)) / size)[None]
    index = select_active_tracks(
        tracks,
        torch.from_numpy(clip.visible)[None],
        n_active,
        min_motion=min_motion,
        compensate_camera=compensate_camera,
    ).index[0]
    return index[index >= 0].numpy()


def score_selection(
    chosen: Integer[np.ndarray, " k"], of: Mapping[str, Bool[np.ndarray, " p"]]
) -> Scores:
    """How many tracks were selected, and by name the share of them that are among these points."""
    if not len(chosen):
        return {"active_points": 0.0}
    shares = {name: float(points[chosen].mean()) for name, points in of.items()}
    return {"active_points": float(len(chosen)), **shares}


def never_moving(
    clip: LabelledClip,
) -> tuple[Float32[np.ndarray, "t p 2"], Bool[np.ndarray, "t p"]]:
    """The baseline: tracks of a tracker that says that nothing moves and nothing is hidden."""
    return np.broadcast_to(clip.tracks[:1], clip.tracks.shape).copy(), np.ones_like(clip.visible)
