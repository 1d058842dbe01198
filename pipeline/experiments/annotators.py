"""Annotators and tokenizers by name: `--set depth.annotator=vda-vitl`.

Third-party weights are read from the weights folder (`roboscape weights list`); the small ones ship
with the package.
"""

from dataclasses import replace
from pathlib import Path

from model.spatial_tracker.config import published as tracker
from model.video_depth.config import VideoDepthConfig, vitb, vitl, vits
from model.weights import shipped
from pipeline.experiments import annotator_training
from pipeline.experiments.experiment import Experiment
from stages.base import Resources
from stages.clip_format import ClipFormat
from stages.depth.sensor import SensorDepth
from stages.depth.stage import DepthAnnotator, DepthUnits
from stages.depth.truth import TrueDepth
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.keypoints.dense_flow import DenseFlow
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.keypoints.stage import KeypointAnnotator
from stages.keypoints.truth import TrueTracking
from stages.tokenizer.images import Source
from stages.tokenizer.published import Layout, PublishedTokenizer
from storage.weights.folder import resolve_weights
from storage.weights.ref import WeightsRef

VDA: dict[str, VideoDepthConfig] = {
    "vda-vits": vits(),
    "vda-vits-metric": vits(metric=True),
    "vda-vitb": vitb(),
    "vda-vitb-metric": vitb(metric=True),
    "vda-vitl": vitl(),
    "vda-vitl-metric": vitl(metric=True),
}
# The rate at which the published networks see a video, see docs/annotators.md
NETWORK_HZ = 10.0
DEPTH = ("sensor", "truth", "vda-tiny", *VDA)
KEYPOINTS = ("dense-flow", "lucas-kanade", "truth", "spatracker-tiny", "spatracker")
ROLES = (
    "depth.annotator",
    "keypoints.annotator",
    "evaluation.depth_annotator",
    "evaluation.tracker",
    "rgb_tokenizer",
    "depth_tokenizer",
)
TOKENIZERS: dict[str, Layout] = {"magvit2-1x": "1x", "magvit2-tencent": "tencent"}


def depth_annotator(
    name: str, root: str, clip_format: ClipFormat, gpus: float, weights: Path
) -> DepthAnnotator:
    """root: of the episodes, for their videos and what `sensor` reads. gpus: of one worker.

    Raises FileNotFoundError for `truth` of episodes that are not simulated.
    """
    if name == "sensor":
        return SensorDepth(root=root, clip_format=clip_format)
    if name == "truth":
        return TrueDepth.of(root, clip_format)
    if name == "vda-tiny":
        small = annotator_training.small_depth(shipped_weights(name), clip_format)
        return replace(small, root=root)
    check(name, DEPTH, "depth annotator")
    return VideoDepthAnything(
        weights=resolve_weights(name, weights),
        model=VDA[name],
        root=root,
        annotation_rate_hz=NETWORK_HZ,
        clip_format=clip_format,
        gpus=gpus,
    )


def keypoint_annotator(
    name: str,
    root: str,
    depth_units: DepthUnits,
    clip_format: ClipFormat,
    gpus: float,
    weights: Path,
) -> KeypointAnnotator:
    """root: of the episodes, for their videos. depth_units: of the depth that the tracker reads."""
    if name == "dense-flow":
        return DenseFlow(root=root, clip_format=clip_format)
    if name == "lucas-kanade":
        return LucasKanade(root=root, clip_format=clip_format)
    if name == "truth":
        return TrueTracking.of(root)
    if name == "spatracker-tiny":
        small = annotator_training.small_tracks(shipped_weights(name), depth_units, clip_format)
        return replace(small, root=root)
    check(name, KEYPOINTS, "keypoint annotator")
    return SpatialTracking(
        weights=resolve_weights(name, weights),
        model=tracker(),
        root=root,
        annotation_rate_hz=NETWORK_HZ,
        depth_units=depth_units,
        clip_format=clip_format,
        gpus=gpus,
    )


def tokenizer(name: str, source: Source, resources: Resources, weights: Path) -> PublishedTokenizer:
    check(name, tuple(TOKENIZERS), "tokenizer")
    return PublishedTokenizer(
        source=source,
        weights=resolve_weights(name, weights),
        layout=TOKENIZERS[name],
        resources=resources,
    )


def shipped_weights(name: str) -> WeightsRef:
    path: Path = shipped(name)
    return WeightsRef.of(path, name=path.name, licence="Apache-2.0")


def check(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise ValueError(f"no {what} '{name}'; there is: {', '.join(known)}")


def choose(e: Experiment, role: str, name: str, weights: Path) -> Experiment:
    """The experiment with another annotator or tokenizer in this role, one of ROLES.

    Raises ValueError naming the known ones, WeightsError if the weights are missing.
    """
    gpus = e.depth.annotator.resources.gpus or e.world_model.resources.gpus / 2
    if role in ("depth.annotator", "evaluation.depth_annotator"):
        made = depth_annotator(name, e.clip.root, e.clip_format, gpus, weights)
        if role == "evaluation.depth_annotator":
            return e.vary({"evaluation": replace(e.evaluation, depth_annotator=made)})
        return e.vary({"depth": replace(e.depth, annotator=made)})
    if role in ("keypoints.annotator", "evaluation.tracker"):
        units = e.depth.annotator.units
        tracks = keypoint_annotator(name, e.clip.root, units, e.clip_format, gpus, weights)
        if role == "evaluation.tracker":
            return e.vary({"evaluation": replace(e.evaluation, tracker=tracks)})
        return e.vary({"keypoints": replace(e.keypoints, annotator=tracks)})
    old = e.rgb_tokenizer if role == "rgb_tokenizer" else e.depth_tokenizer
    return e.vary({role: tokenizer(name, old.source, old.resources, weights)})
