"""Simulated clips and their true depth -> a small Video Depth Anything.

`roboscape train-annotator vda-tiny`. The network, and the way in which its stage runs it, are those
of the published weights. See `stages.annotator_training.train`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model import metrics
from model.training.loop import LossFn
from model.video_depth.config import VideoDepthConfig
from model.video_depth.losses import DepthLossConfig, depth_loss
from model.video_depth.model import VideoDepth
from model.video_depth.video import estimate_depth, network_size, normalised
from stages.annotator_training.train import TrainAnnotator
from stages.base import Inputs
from stages.batches import BatchOrder, fingerprint, raw_draws, usable_rows
from stages.depth.video_depth_anything import network_estimate
from stages.drawing.pictures import colour_depth, contact_sheet, png_bytes, spread, strip
from stages.exact_labels import FARTHEST_M
from stages.networks import new_or_started
from storage.stores.rows import Rows

PICTURE_CLIPS, PICTURE_FRAMES = 3, 6
BRIGHTNESS = 0.25  # clips are made darker or brighter by up to this share


@dataclass(frozen=True, kw_only=True)
class DepthBatch:
    """frames: by `model.video_depth.video.normalised`; target: inverse depth, or m if `metric`."""

    frames: Float[Tensor, "b t 3 h w"]
    target: Float[Tensor, "b t h w"]
    valid: Bool[Tensor, "b t h w"]
    clip_ids: list[str]

    def pinned(self) -> "DepthBatch":
        return self

    def to(self, device: torch.device) -> "DepthBatch":
        tensors = {name: getattr(self, name).to(device) for name in ("frames", "target", "valid")}
        return DepthBatch(**tensors, clip_ids=self.clip_ids)


@dataclass(frozen=True, kw_only=True)
class TrainVideoDepth(TrainAnnotator):
    """Trains on runs of `frames_per_clip` successive frames; measures whole `val` clips."""

    model: VideoDepthConfig
    input_size: Annotated[int, Interval(ge=14, le=4096)] = 140  # px, a multiple of 14
    loss: DepthLossConfig = field(default_factory=DepthLossConfig)
    clips_per_batch: Annotated[int, Ge(1)] = 2
    frames_per_clip: Annotated[int, Ge(1)] = 8

    name: ClassVar[str] = "depth_annotator"
    title: ClassVar[str] = "Video Depth Anything"
    inputs: ClassVar[Inputs] = {
        "discover": ("split",),
        "clip": ("rgb",),
        "truth": ("depth_m", "depth_known"),
    }

    def new_network(self) -> VideoDepth:
        return VideoDepth(self.model)

    def build(self) -> VideoDepth:
        return new_or_started(
            VideoDepth, self.model, self.start_from, self.training.seed, self.name
        )

    # Data

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], DepthBatch]:
        """Batch i: clips in the data set's order, of each a run of frames as `varied` makes it."""
        seed, clip_ids = self.training.seed, rows["clip"].clip_ids
        usable = usable_rows(rows, "train")
        order = BatchOrder(
            rows=usable, batch_size=self.clips_per_batch, seed=seed, fingerprint=fingerprint(rows)
        )

        def batch_at(i: int) -> DepthBatch:
            chosen = order.at(i)
            arrays = self.read_clips(rows, chosen)
            draws = raw_draws(3 * len(chosen), "depth clips", seed, i).reshape(3, -1) / 2**64
            runs = varied(arrays, self.frames_per_clip, draws)
            return self.batch(runs, [clip_ids[int(row)] for row in chosen])

        return batch_at

    def batch(self, arrays: Mapping[str, np.ndarray], clip_ids: list[str]) -> DepthBatch:
        height, width = arrays["rgb"].shape[2:4]
        size = network_size(height, width, self.input_size)
        depth = torch.from_numpy(arrays["depth_m"].astype(np.float32))
        valid = torch.from_numpy(arrays["depth_known"])
        target = depth if self.model.metric else torch.where(valid, 1 / depth.clamp(min=1e-3), 0.0)
        return DepthBatch(
            frames=normalised(torch.from_numpy(arrays["rgb"]), size),
            target=F.interpolate(target, size, mode="nearest"),
            valid=F.interpolate(valid.float(), size, mode="nearest") > 0.5,
            clip_ids=clip_ids,
        )

    # Loss and measurements

    def loss_fn(self) -> LossFn:
        def loss(model: VideoDepth, batch: DepthBatch, noise: torch.Generator) -> dict[str, Tensor]:
            # Without the last ReLU: pixels that fall below 0 early would stay there
            n_frames = batch.frames.shape[0] * batch.frames.shape[1]
            depth = model(batch.frames, signed=True, frames_per_step=n_frames)
            found = depth_loss(
                depth, batch.target, batch.valid, self.loss, metric=self.model.metric
            )
            return {"total": found.total, **found.parts}

        return loss

    def estimate(
        self, model: VideoDepth, clips: Mapping[str, np.ndarray]
    ) -> Float[np.ndarray, "b t h w"]:
        """Inverse depth of whole clips, as the stage `depth` makes it with windows="direct"."""
        found = [
            estimate_depth(model, clip[None], input_size=self.input_size, windows="direct")[0]
            for clip in clips["rgb"]
        ]
        return np.stack(
            [network_estimate(depth, self.model.metric).inverse_depth for depth in found]
        )

    def scores(self, model: VideoDepth, clips: Mapping[str, np.ndarray]) -> dict[str, float]:
        """AbsRel and δ1 after one scale and shift a clip, and without (metric networks only)."""
        inverse = torch.from_numpy(self.estimate(model, clips))
        valid = torch.from_numpy(clips["depth_known"])
        depth = torch.where(valid, torch.from_numpy(clips["depth_m"].astype(np.float32)), 1.0)
        aligned = metrics.align_scale_shift(
            predicted_inverse=inverse, target_inverse=1 / depth, valid=valid
        )
        ways = {"": aligned}
        if self.model.metric:
            ways[" in metres"] = inverse
        numbers = {}
        for suffix, one in ways.items():
            guess = metrics.depth_from_inverse(one, farthest=FARTHEST_M)
            errors = metrics.abs_rel(predicted_depth=guess, target_depth=depth, valid=valid)
            near = metrics.delta_accuracy(predicted_depth=guess, target_depth=depth, valid=valid)
            numbers[f"AbsRel{suffix}"] = errors.mean().item()
            numbers[f"delta1{suffix}"] = near.mean().item()
        return numbers

    def picture(self, model: VideoDepth, clips: Mapping[str, np.ndarray]) -> bytes:
        """Held-out clips: camera, estimated and true depth, each in its own range of colours."""
        few = {name: array[:PICTURE_CLIPS] for name, array in clips.items()}
        shown, strips = spread(few["rgb"].shape[1], PICTURE_FRAMES), []
        for i, inverse in enumerate(self.estimate(model, few)):
            valid, true_m = few["depth_known"][i], few["depth_m"][i].astype(np.float32)
            drawn = [("camera", few["rgb"][i][shown])]
            for label, depth in (("estimate", inverse), ("truth", 1 / np.maximum(true_m, 1e-3))):
                limits = np.quantile(depth[valid], (0.02, 0.98))
                drawn.append((label, colour_depth(depth, valid, limits)[shown]))
            frames = [f"frame {t}" for t in shown]
            strips.append(strip(drawn, columns=frames, title=f"held-out clip {i}"))
        return png_bytes(contact_sheet(strips))


def varied(
    arrays: Mapping[str, np.ndarray], n_frames: int, draws: Float[np.ndarray, "3 b"]
) -> dict[str, np.ndarray]:
    """A run of frames of each clip, mirrored, darker or brighter, by its three draws in [0, 1)."""
    n_starts = arrays["rgb"].shape[1] - min(n_frames, arrays["rgb"].shape[1]) + 1
    starts, mirrored = (draws[0] * n_starts).astype(int), draws[1] < 0.5
    gains = 1 + BRIGHTNESS * (2 * draws[2] - 1)
    made = {}
    for name, array in arrays.items():
        runs = [clip[start : start + n_frames] for clip, start in zip(array, starts, strict=True)]
        made[name] = np.stack(
            [run[:, :, ::-1] if flip else run for run, flip in zip(runs, mirrored, strict=True)]
        )
    bright = made["rgb"].astype(np.float32) * gains[:, None, None, None, None].astype(np.float32)
    made["rgb"] = np.clip(np.rint(bright), 0, 255).astype(np.uint8)
    return made
