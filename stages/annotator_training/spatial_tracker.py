"""Simulated clips and their true tracks -> a small SpatialTracker.

`roboscape train-annotator spatracker-tiny`. The network, and the way in which its stage runs it,
are those of the published weights. See `stages.annotator_training.train`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from model import metrics
from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.losses import TrackerLossConfig, tracker_loss
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.predictor import Tracks, track_points
from model.training.loop import LossFn
from stages.annotator_training.train import TrainAnnotator
from stages.base import Inputs
from stages.batches import BatchOrder, fingerprint, raw_draws, usable_rows
from stages.drawing.pictures import contact_sheet, draw_tracks, png_bytes, spread, strip
from stages.networks import new_or_started
from storage.stores.rows import Rows

PICTURE_CLIPS, PICTURE_FRAMES = 2, 6
MOVING_PX = 10.0  # true path, in a clip of 256 px, above which a point counts as moving
TRUTH = ("depth_m", "depth_known", "tracks", "track_depth_m", "visible", "known")


@dataclass(frozen=True, kw_only=True)
class TrackBatch:
    """Clips in the network's working size, and true tracks of points of their first frames."""

    frames: Float[Tensor, "b t 3 h w"]  # 0 to 255
    depth: Float[Tensor, "b t h w"]  # m, 0 where unknown
    tracks: Float[Tensor, "b t p 3"]  # x, y in working pixels, depth in m
    visible: Bool[Tensor, "b t p"]
    valid: Bool[Tensor, "b t p"]
    clip_ids: list[str]

    def pinned(self) -> "TrackBatch":
        return self

    def to(self, device: torch.device) -> "TrackBatch":
        names = ("frames", "depth", "tracks", "visible", "valid")
        return TrackBatch(
            **{name: getattr(self, name).to(device) for name in names}, clip_ids=self.clip_ids
        )


@dataclass(frozen=True, kw_only=True)
class TrainSpatialTracker(TrainAnnotator):
    """Trains on clips of which half of the points move; measures whole `val` clips.

    The input depth is the true one, as of a metric annotator. Clips are mirrored at random.
    """

    model: SpatialTrackerConfig
    loss: TrackerLossConfig = field(default_factory=TrackerLossConfig)
    clips_per_batch: Annotated[int, Ge(1)] = 1
    points: Annotated[int, Ge(1)] = 96  # a clip
    val_points: Annotated[int, Ge(1)] = 256

    name: ClassVar[str] = "keypoint_annotator"
    title: ClassVar[str] = "SpatialTracker"
    inputs: ClassVar[Inputs] = {"discover": ("split",), "clip": ("rgb",), "truth": TRUTH}

    def new_network(self) -> SpatialTracker:
        return SpatialTracker(self.model)

    def build(self) -> SpatialTracker:
        return new_or_started(
            SpatialTracker, self.model, self.start_from, self.training.seed, self.name
        )

    # Data

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], TrackBatch]:
        """Batch i: clips in the data set's order, of each some points, drawn for this batch."""
        seed, clip_ids = self.training.seed, rows["clip"].clip_ids
        usable = usable_rows(rows, "train")
        order = BatchOrder(
            rows=usable, batch_size=self.clips_per_batch, seed=seed, fingerprint=fingerprint(rows)
        )

        def batch_at(i: int) -> TrackBatch:
            chosen = order.at(i)
            clips = self.read_clips(rows, chosen)
            n_points = clips["known"].shape[1]
            n_draws = len(chosen) * (n_points + 1)
            draws = raw_draws(n_draws, "tracked points", seed, i).reshape(len(chosen), -1) / 2**64
            clips = mirrored(clips, draws[:, 0] < 0.5)
            return self.batch(clips, draws[:, 1:], [clip_ids[int(row)] for row in chosen])

        return batch_at

    def batch(
        self, clips: Mapping[str, np.ndarray], draws: Float[np.ndarray, "b n"], clip_ids: list[str]
    ) -> TrackBatch:
        b, t, height, width, _ = clips["rgb"].shape
        size = (self.model.working_height, self.model.working_width)
        # Points and their true tracks, in the network's working pixels
        pairs = zip(moving(clips), draws, strict=True)
        picked = np.stack([pick_points(moves, draw, self.points) for moves, draw in pairs])
        at = (np.arange(b)[:, None, None], np.arange(t)[:, None], picked[:, None])
        scale = torch.tensor([size[1] / width, size[0] / height])
        places = torch.from_numpy(clips["tracks"][at]) * scale
        z = torch.from_numpy(clips["track_depth_m"][at])[..., None]
        tracks = torch.cat([places, z], dim=-1)
        # Frames and depth in the working size
        frames = rearrange(torch.from_numpy(clips["rgb"]), "b t h w c -> (b t) c h w").float()
        depth_m = np.where(clips["depth_known"], clips["depth_m"], 0).astype(np.float32)
        depth = torch.from_numpy(depth_m)
        known = torch.from_numpy(clips["known"][np.arange(b)[:, None], picked])
        return TrackBatch(
            frames=F.interpolate(frames, size, mode="bilinear").unflatten(0, (b, t)),
            depth=F.interpolate(depth, size, mode="nearest"),
            tracks=tracks,
            visible=torch.from_numpy(clips["visible"][at]),
            valid=known[:, None].expand(-1, t, -1) & in_front(tracks),
            clip_ids=clip_ids,
        )

    # Loss and measurements

    def loss_fn(self) -> LossFn:
        def loss(
            model: SpatialTracker, batch: TrackBatch, noise: torch.Generator
        ) -> dict[str, Tensor]:
            frames = torch.zeros(batch.tracks.shape[2], dtype=torch.long)
            output = model(batch.frames, batch.depth, frames, batch.tracks[:, 0])
            found = tracker_loss(output, batch.tracks, batch.visible, batch.valid, self.loss)
            return {"total": found.total, **found.parts}

        return loss

    def estimate(self, model: SpatialTracker, clips: Mapping[str, np.ndarray], i: int) -> Tracks:
        """One clip's points, as the stage `keypoints` would track them."""
        depth = np.where(clips["depth_known"][i], clips["depth_m"][i], 0).astype(np.float32)
        places = clips["tracks"][i, 0, : self.val_points]
        queries = np.concatenate([np.zeros_like(places[:, :1]), places], axis=1)
        return track_points(model, clips["rgb"][i : i + 1], depth[None], queries)

    def scores(self, model: SpatialTracker, clips: Mapping[str, np.ndarray]) -> dict[str, float]:
        """TAP-Vid's score in percent, of all and of moving points, beside that of never moving."""
        size, n, table = (clips["rgb"].shape[2], clips["rgb"].shape[3]), self.val_points, []
        moves = moving(clips)[:, :n]
        for i in range(len(clips["rgb"])):
            true, seen = clips["tracks"][i][:, :n], clips["visible"][i][:, :n]
            known = clips["known"][i][:n]
            found = self.estimate(model, clips, i)
            mine = found.tracks[0], found.visible[0]
            still = np.broadcast_to(true[:1], true.shape).copy(), np.ones_like(seen)
            for suffix, among in (("", known), (" moving", known & moves[i])):
                if (seen[1:] & among).any():
                    score = jaccard(f"average Jaccard{suffix}", mine, (true, seen), among, size)
                    score |= jaccard(f"if still{suffix}", still, (true, seen), among, size)
                    table.append(score)
        names = dict.fromkeys(name for line in table for name in line)
        return {
            name: float(np.mean([line[name] for line in table if name in line])) for name in names
        }

    def picture(self, model: SpatialTracker, clips: Mapping[str, np.ndarray]) -> bytes:
        """Held-out clips, estimated tracks above true ones."""
        shown, strips = spread(clips["rgb"].shape[1], PICTURE_FRAMES), []
        for i in range(min(PICTURE_CLIPS, len(clips["rgb"]))):
            found, rgb, n = self.estimate(model, clips, i), clips["rgb"][i], self.val_points
            mine = draw_tracks(rgb, found.tracks[0], found.visible[0])[shown]
            true = draw_tracks(rgb, clips["tracks"][i, :, :n], clips["visible"][i, :, :n])[shown]
            rows, frames = [("estimate", mine), ("truth", true)], [f"frame {t}" for t in shown]
            strips.append(strip(rows, columns=frames, title=f"held-out clip {i}", cell_px=192))
        return png_bytes(contact_sheet(strips))


def moving(clips: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "b p"]:
    """Points whose true path is long, measured in a picture of 256 px."""
    height, width = clips["rgb"].shape[2:4]
    steps = np.diff(clips["tracks"], axis=1) * (256 / np.array([width, height]))
    return clips["known"] & (np.linalg.norm(steps, axis=-1).sum(axis=1) > MOVING_PX)


def pick_points(
    moves: Bool[np.ndarray, " n"], draws: Float[np.ndarray, " n"], count: int
) -> Int[np.ndarray, " p"]:
    """`count` points in the order of their draws, half of them moving if there are that many."""
    order = np.argsort(draws)
    first = order[moves[order]][: count // 2]
    rest = order[~np.isin(order, first)]
    return np.concatenate([first, rest])[:count]


def in_front(tracks: Float[Tensor, "b t p 3"]) -> Bool[Tensor, "b t p"]:
    """Points in front of the camera; behind it a projection has no meaning."""
    return tracks[..., 2] > 0


def mirrored(
    clips: Mapping[str, np.ndarray], flip: Bool[np.ndarray, " b"]
) -> dict[str, np.ndarray]:
    """The clips, those with `flip` mirrored left to right."""
    made = dict(clips)
    for name in ("rgb", "depth_m", "depth_known"):
        made[name] = np.stack(
            [a[:, :, ::-1] if yes else a for a, yes in zip(clips[name], flip, strict=True)]
        )
    x, y = np.moveaxis(clips["tracks"], -1, 0)
    x = np.where(flip[:, None, None], clips["rgb"].shape[3] - 1 - x, x)
    return made | {"tracks": np.stack([x, y], axis=-1).astype(np.float32)}


def jaccard(
    name: str,
    given: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    among: Bool[np.ndarray, " p"],
    size: tuple[int, int],
) -> dict[str, float]:
    """Average Jaccard in percent of (tracks, visible) against the true ones, without frame 0."""
    tracks, seen, target, true_seen = (torch.from_numpy(a)[None] for a in (*given, *true))
    after = metrics.frames_after_query(
        torch.zeros((1, len(among)), dtype=torch.long), tracks.shape[1]
    )
    counted = after & torch.from_numpy(among)[None, None]
    value = metrics.average_jaccard(tracks, seen, target, true_seen, counted, size)
    return {name: 100 * float(value)}
