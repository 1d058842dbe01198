"""Motion in predicted videos: a tracker's tracks of them against the true ones, and the grippers'
paths.

The true tracks are the labels of stage `keypoints`. Those of each video are by `tracker`, which
sees the clip's own frames and starts from the same points. It errs, too: what it makes of the
camera's frames stands beside, as a method of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.motion_metrics import track_error, track_within
from model.world.keypoints import select_active_tracks
from stages.base import ClipInputs, Inputs, Rejected
from stages.evaluation.gripper_path import gripper_paths, is_followed, path_score, points_along
from stages.evaluation.scores import (
    ACTIVE,
    CAMERA,
    GRIPPER,
    PROTOCOLS,
    PSEUDO_TRACKS,
    TRACKED,
    Cell,
    ClipVideos,
    Scores,
    candidates,
)
from stages.keypoints.stage import KeypointAnnotator
from stages.tokenizer.images import images_to_rgb
from stages.world_model.data import track_shares
from storage.stores.rows import Rows

# Arrays that are read besides those of every evaluation
MOTION_INPUTS: Inputs = {
    "clip": ("states", "intrinsics", "extrinsics"),
    "keypoints": ("tracks", "visible"),
}


def check_tracker(tracker: KeypointAnnotator) -> None:
    """Raises ValueError for one that reads more than pictures, which a predicted video has not."""
    reads = [f"{role}/{name}" for role, names in tracker.inputs.items() for name in names]
    if tracker.depth_units is not None:
        reads.append("depth")
    if reads:
        raise ValueError(
            f"evaluation.tracker={tracker.name} reads {', '.join(reads)}, which is recorded and "
            "which a predicted video has not: name one that sees pictures alone, dense-flow or "
            "lucas-kanade"
        )


class MotionScores:
    """Scores a clip's videos by their motion. tracker: see `check_tracker`."""

    def __init__(self, rows: Mapping[str, Rows], tracker: KeypointAnnotator, device: torch.device):
        # A predicted video has the clip's frames and no others
        self._track = replace(tracker, annotation_rate_hz=None).start(str(device))  # type: ignore[type-var]
        self._rows = rows

    def __call__(self, clip: ClipVideos, row: int) -> Scores:
        """The scores of every method; empty for a clip in which nothing moves."""
        true = self._rows["keypoints"].read(("tracks", "visible"), row)
        camera = self._rows["clip"].read(("states", "intrinsics", "extrinsics"), row)
        size = (clip.camera.shape[-2], clip.camera.shape[-1])
        counted = active_points(true["tracks"], true["visible"], size)
        paths = gripper_paths(**camera)
        along = [points_along(path, true["tracks"], true["visible"], size) for path in paths]
        scores: Scores = {}
        for protocols, method, video in self._videos(clip):
            tracks = self._tracks(clip.clip_id, video, true["tracks"][0])
            found = motion_scores(tracks, true["tracks"], counted, size)
            arms = zip(paths, along, strict=True)
            known = [path_score(path, tracks, on, size) for path, on in arms if is_followed(on)]
            if known:
                found[GRIPPER, "path_ndtw"] = float(np.mean(known))
            for (region, metric), value in found.items():
                for protocol in protocols:
                    scores[Cell(protocol, PSEUDO_TRACKS, region, method, metric)] = value
        return scores

    def _videos(
        self, clip: ClipVideos
    ) -> Iterator[tuple[tuple[str, ...], str, Float[Tensor, "t c h w"]]]:
        yield from candidates(clip, CAMERA)
        yield PROTOCOLS, TRACKED, clip.camera

    def _tracks(
        self, clip_id: str, video: Float[Tensor, "t c h w"], queries: Float[np.ndarray, "p 2"]
    ) -> Float[np.ndarray, "t p 2"]:
        """In a video that the tracker rejects all points are lost at once, and so stay put: left
        out, it would spare a model its worst clips.
        """
        frames = ClipInputs(row=0, clip_id=clip_id, arrays={"rgb": images_to_rgb(video)})
        (found,) = self._track([frames], queries)
        if isinstance(found, Rejected):
            return np.repeat(queries[None], len(video), axis=0)
        return found.tracks


def active_points(
    tracks: Float[np.ndarray, "t p 2"], visible: Bool[np.ndarray, "t p"], size: tuple[int, int]
) -> Bool[np.ndarray, "t p"]:
    """Where the points that training takes as active are seen, after frame 0."""
    shares = track_shares(tracks[None], *size).float()
    chosen = select_active_tracks(shares, torch.from_numpy(visible)[None]).index[0]
    active = np.zeros(tracks.shape[1], bool)
    active[chosen[chosen >= 0].numpy()] = True
    counted = visible & active
    counted[0] = False
    return counted


def motion_scores(
    tracks: Float[np.ndarray, "t p 2"],
    true: Float[np.ndarray, "t p 2"],
    counted: Bool[np.ndarray, "t p"],
    size: tuple[int, int],
) -> dict[tuple[str, str], float]:
    """(region, metric) -> score; empty where no point counts."""
    if not counted.any():
        return {}
    pair = (torch.from_numpy(tracks)[None], torch.from_numpy(true)[None])
    where = torch.from_numpy(counted)[None]
    return {
        (ACTIVE, "track_error"): track_error(*pair, where, size).item(),
        (ACTIVE, "track_within"): track_within(*pair, where, size).item(),
    }
