"""Who makes labels and tokens, by name: `--set depth.annotator=vda-vitl`, `--set
rgb_tokenizer=magvit2-1x`.

Third-party weights are looked for in the weights folder (`roboscape weights list`); the small ones
ship with the package.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from model.spatial_tracker.config import published as tracker
from model.video_depth.config import VideoDepthConfig, vitb, vitl, vits
from model.weights import shipped
from pipeline.experiments import annotator_training
from pipeline.experiments.experiment import Experiment
from pipeline.settings import Settings
from stages.base import Resources
from stages.depth.sensor import SensorDepth
from stages.depth.stage import DepthAnnotator
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.keypoints.stage import KeypointAnnotator
from stages.tokenizer.images import Source
from stages.tokenizer.published import LAYOUTS, PublishedTokenizer
from storage.weights.catalogue import published
from storage.weights.ref import WeightsRef

VDA: dict[str, Callable[..., VideoDepthConfig]] = {
    "vda-vits": vits,
    "vda-vitb": vitb,
    "vda-vitl": vitl,
}
METRIC = "-metric"
Units = Literal["relative", "1/m"]
DEPTH = ("sensor", "vda-tiny", *(f"{name}{units}" for name in VDA for units in ("", METRIC)))
KEYPOINTS = ("lucas-kanade", "spatracker-tiny", "spatracker")
MAGVIT = "magvit2-"
TOKENIZERS = tuple(f"{MAGVIT}{layout}" for layout in LAYOUTS)


def depth_annotator(name: str, root: str, size: int, gpus: float) -> DepthAnnotator:
    """root: of the episodes, whose depth camera `sensor` reads. size: px of a clip. gpus: of a
    worker.
    """
    if name == "sensor":
        return SensorDepth(root=root)  # type: ignore[return-value]  (its ClassVars)
    if name == "vda-tiny":
        return annotator_training.small_depth(shipped_weights(name))  # type: ignore[return-value]
    check(name, DEPTH, "depth annotator")
    config = VDA[name.removesuffix(METRIC)](metric=name.endswith(METRIC))
    weights = published(name, Settings().weights)
    return VideoDepthAnything(weights=weights, model=config, clip_size=size, gpus=gpus)  # type: ignore[return-value]


def keypoint_annotator(
    name: str, depth_units: Units, n_points: int, gpus: float
) -> KeypointAnnotator:
    """depth_units: of the depth annotator, which the tracker reads. n_points: of a clip, for the
    cost told ahead.
    """
    if name == "lucas-kanade":
        return LucasKanade()  # type: ignore[return-value]
    if name == "spatracker-tiny":
        return annotator_training.small_tracks(shipped_weights(name), depth_units, n_points)  # type: ignore[return-value]
    check(name, KEYPOINTS, "keypoint annotator")
    weights = published(name, Settings().weights)
    return SpatialTracking(  # type: ignore[return-value]
        weights=weights, model=tracker(), depth_units=depth_units, n_points=n_points, gpus=gpus
    )


def tokenizer(name: str, source: Source, resources: Resources) -> PublishedTokenizer:
    check(name, TOKENIZERS, "tokenizer")
    weights = published(name, Settings().weights)
    return PublishedTokenizer(
        source=source, weights=weights, layout=name.removeprefix(MAGVIT), resources=resources  # type: ignore[arg-type]
    )  # fmt: skip


def shipped_weights(name: str) -> WeightsRef:
    path: Path = shipped(name)
    return WeightsRef.of(path, name=path.name, licence="Apache-2.0")


def check(name: str, there: tuple[str, ...], what: str) -> None:
    if name not in there:
        raise ValueError(f"no {what} '{name}'; there is: {', '.join(there)}")


def choose(e: Experiment, role: str, name: str) -> Experiment:
    """The experiment with another maker of labels or tokens; ROLES are the roles. A tracker keeps
    step with the depth.

    Raises ValueError naming what there is, WeightsError if the weights are missing.
    """
    gpus = getattr(e.depth.annotator, "gpus", 0.0) or e.world_model.resources.gpus / 2
    if role == "depth.annotator":
        made = depth_annotator(name, e.clip.root, e.clip.size, gpus)
        e = replace(e, depth=replace(e.depth, annotator=made))
        tracker = e.keypoints.annotator
        if isinstance(tracker, SpatialTracking):
            tracker = replace(tracker, depth_units=made.units)
        return replace(e, keypoints=replace(e.keypoints, annotator=tracker))
    if role == "keypoints.annotator":
        tracks = keypoint_annotator(name, e.depth.annotator.units, e.keypoints.grid**2, gpus)
        return replace(e, keypoints=replace(e.keypoints, annotator=tracks))
    old = getattr(e, role)
    return replace(e, **{role: tokenizer(name, old.source, old.resources)})


ROLES = ("depth.annotator", "keypoints.annotator", "rgb_tokenizer", "depth_tokenizer")
