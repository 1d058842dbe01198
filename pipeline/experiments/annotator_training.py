"""The paper's annotators in small: their training on simulated episodes, and their use.

`roboscape train-annotator NAME` trains one, `roboscape run demo --set depth.annotator=vda-tiny`
uses one. They work in the simulated scene only; real videos need the published weights (`roboscape
weights list`).
"""

from dataclasses import replace
from pathlib import Path

from model.spatial_tracker.config import tiny as tiny_tracker
from model.training.loop import TrainConfig
from model.video_depth.config import tiny as tiny_depth
from model.video_depth.losses import DepthLossConfig
from pipeline.experiments.experiment import AnnotatorTraining
from simulation.config import demo_sample
from stages.annotator_training.spatial_tracker import TrainSpatialTracker
from stages.annotator_training.truth import Truth
from stages.annotator_training.video_depth import TrainVideoDepth
from stages.clip_format import ClipFormat
from stages.clips.clip import Clip
from stages.clips.discover import Discover
from stages.depth.stage import DepthUnits
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.training.run import RunConfig
from storage.weights.ref import WeightsRef

CLIP_FORMAT = ClipFormat(size=128)  # as in the demo
# Other seeds than the demo's and the world model's: nothing is evaluated on these training episodes
SAMPLE = replace(demo_sample(), n_episodes=200, seed=2000, rate_hz=4.0)
# Of the experiments, and of the files in `model/weights`
NAMES = ("vda-tiny", "spatracker-tiny")
DEPTH_MODEL, DEPTH_INPUT = tiny_depth(metric=True), 140  # px
TRACK_MODEL = replace(tiny_tracker(), window=16)  # the whole clip in one window
WATCH = RunConfig(save_every=50, validate_every=250)


def vda_tiny(source: Path, weights: Path) -> AnnotatorTraining:
    """Trains a small Video Depth Anything on simulated episodes. About an hour on one core."""
    return training(
        source,
        TrainVideoDepth(
            model=DEPTH_MODEL,
            input_size=DEPTH_INPUT,
            loss=DepthLossConfig(temporal=1.0),  # the paper's 10 is for a pretrained encoder
            training=TrainConfig(
                steps=3000, learning_rate=5e-4, warmup_steps=100, min_lr_ratio=0.02
            ),
            watch=WATCH,
        ),
    )


def spatracker_tiny(source: Path, weights: Path) -> AnnotatorTraining:
    """Trains a small SpatialTracker on simulated episodes. About an hour on one core."""
    return training(
        source,
        TrainSpatialTracker(
            model=TRACK_MODEL,
            training=TrainConfig(
                steps=1500, learning_rate=1e-3, warmup_steps=100, min_lr_ratio=0.02
            ),
            points=64,
            watch=WATCH,
        ),
    )


def training(source: Path, annotator: TrainVideoDepth | TrainSpatialTracker) -> AnnotatorTraining:
    source = source.absolute()
    return AnnotatorTraining(
        clip_format=CLIP_FORMAT,
        discover=Discover.of(
            source, clip_format=CLIP_FORMAT, hop_s=1.5, val_share=0.05, test_share=0.0
        ),
        clip=Clip(root=str(source), clip_format=CLIP_FORMAT),
        truth=Truth.of(source, clip_format=CLIP_FORMAT),
        annotator=annotator,
    )


def small_depth(weights: WeightsRef, clip_format: ClipFormat) -> VideoDepthAnything:
    """The annotator that `vda_tiny` trains, with the settings of its training."""
    return VideoDepthAnything(
        weights=weights,
        model=DEPTH_MODEL,
        input_size=DEPTH_INPUT,
        windows="direct",
        clip_format=clip_format,
    )


def small_tracks(
    weights: WeightsRef, depth_units: DepthUnits, clip_format: ClipFormat
) -> SpatialTracking:
    """The annotator that `spatracker_tiny` trains, on metric depth only."""
    return SpatialTracking(
        weights=weights, model=TRACK_MODEL, depth_units=depth_units, clip_format=clip_format
    )
