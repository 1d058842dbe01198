"""Named configurations of the whole data path, as functions; a variant replaces fields of another.

Every default is set here, before anything runs: a stage's fields are part of its key.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.magvit2.config import MagvitConfig, one_x
from model.magvit2.config import tiny as tiny_tokenizer
from model.magvit2.losses import TokenizerLossConfig
from model.training.loop import TrainConfig
from model.world.config import WorldModelConfig, paper_small
from model.world.config import small as small_world_model
from model.world.config import tiny as tiny_world_model
from pipeline.experiments import annotators
from pipeline.experiments.annotators import choose
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.overrides import Overrides
from stages.base import Resources
from stages.clip_format import ClipFormat
from stages.clips.clip import Clip
from stages.clips.discover import Discover
from stages.depth.sensor import SensorDepth
from stages.depth.stage import PseudoDepth
from stages.evaluation.stage import Evaluate
from stages.keypoints.dense_flow import DenseFlow
from stages.keypoints.stage import Keypoints
from stages.label_quality.score_stage import ScoreLabels
from stages.label_quality.stage import LabelQuality
from stages.token_quality.stage import TokenQuality
from stages.tokenizer.tokenize import Tokens
from stages.tokenizer.train import DiscriminatorConfig, TrainTokenizer
from stages.training.run import RunConfig
from stages.world_model.train import TrainWorldModel

# Names of published weights, see `pipeline.experiments.annotators`
DEPTH_WEIGHTS, TRACK_WEIGHTS, TOKENIZER_WEIGHTS = "vda-vits", "spatracker", "magvit2-1x"
WATCH = RunConfig(save_every=25, tensorboard=True)
# What keeps small coloured things in tokens of 8 px: measured in docs/tokens.md
KEEP_OBJECTS = {
    "clips_per_batch": 8,
    "frames_per_clip": 1,
    "loss": TokenizerLossConfig(chroma=2.0, cell_colour=9.0),
    "detail_weight": 6.0,
    "moving_weight": 0.0,
}
# Changes that make a world model without a depth branch
NO_DEPTH: Mapping[str, Any] = MappingProxyType({"world_model.model.depth_branch": False})
# Changes that make 1xgpt's network of the same size, which stands for Genie in the paper's tables:
# one branch, a linear map of the action added to every token, and the loss of RGB alone
GENIE: Mapping[str, Any] = MappingProxyType(
    {
        **NO_DEPTH,
        "world_model.model.action_conditioning": "add",
        "world_model.model.time_positions": "table",
        "world_model.model.norms": "1xgpt",
        "world_model.loss.depth": 0.0,
        "world_model.loss.keypoint": 0.0,
        "world_model.loss.attention": 0.0,
    }
)
# For days on GPUs. Loss spikes stop the training; in batches of a few clips they would be chance.
WATCH_LONG = RunConfig(
    save_every=500, validate_every=2000, rollout_every=2000, tensorboard=True, spike_deviations=20.0
)  # fmt: skip


def from_scratch(
    source: Path,
    *,
    size: int,
    tokenizer: MagvitConfig,
    tokenizer_training: TrainConfig,
    tokenizer_options: Mapping[str, Any] = MappingProxyType({}),
    world_model: WorldModelConfig,
    world_training: TrainConfig,
    hop_s: float = 0.5,
    val_share: float = 0.05,
    clips_per_batch: int = 8,
    watch: RunConfig = WATCH,
    cpus: float = 2.0,
    gpus: float = 0.0,
) -> Experiment:
    """All networks from random weights; labels by `sensor` and `dense-flow`.

    cpus: threads of the trainings and the evaluation. Tiny networks gain nothing from a second one,
    and lose much if another process needs that core. gpus: of a training; half of it for tokens.
    tokenizer_options: further fields of both `TrainTokenizer`.
    """
    source = source.absolute()
    resources = Resources(cpus=cpus, gpus=gpus, memory_gb=16.0 if gpus else 2.0)
    tokenizing = Resources(
        cpus=1.0, gpus=gpus / 2, memory_gb=4.0 if gpus else 1.0, clips_per_shard=64
    )
    clip_format = ClipFormat(size=size)
    grid = tokenizer.grid(size, size)
    tokenizers = {
        "model": tokenizer, "training": tokenizer_training,
        "clips_per_batch": 2, "frames_per_clip": 4, "n_val_clips": 16,
        "watch": RunConfig(save_every=100), "resources": resources, **tokenizer_options,
    }  # fmt: skip
    return Experiment(
        clip_format=clip_format,
        discover=Discover.of(
            source, clip_format=clip_format, hop_s=hop_s, val_share=val_share, test_share=0.0
        ),
        clip=Clip(root=str(source), clip_format=clip_format),
        depth=PseudoDepth(
            annotator=SensorDepth(root=str(source), clip_format=clip_format),
            clip_format=clip_format,
        ),
        keypoints=Keypoints(
            annotator=DenseFlow(root=str(source), clip_format=clip_format), clip_format=clip_format
        ),
        label_quality=LabelQuality(),
        label_scores=ScoreLabels(root=str(source)),
        rgb_tokenizer=TrainTokenizer(source="rgb", **tokenizers),
        depth_tokenizer=TrainTokenizer(source="depth", **tokenizers),
        rgb_tokens=Tokens(source="rgb", grid=grid, clip_format=clip_format, resources=tokenizing),
        depth_tokens=Tokens(
            source="depth", grid=grid, clip_format=clip_format, resources=tokenizing
        ),
        token_quality=TokenQuality(root=str(source), resources=tokenizing),
        world_model=TrainWorldModel(
            model=replace(world_model, grid=grid),
            training=world_training,
            clips_per_batch=clips_per_batch,
            watch=watch,
            resources=resources,
        ),
        evaluation=Evaluate(root=str(source), clip_format=clip_format, resources=resources),
    )


def pretrain(source: Path, weights: Path) -> Experiment:
    """Trains the shipped weights from random ones, on its own episodes. Hours on 2 cores.

    Its tracks are exact (`truth`): its sample has 4 Hz, trackers were measured at 10 (and 2) Hz.
    """
    return choose(small(source), "keypoints.annotator", "truth", weights)


def small(source: Path) -> Experiment:
    """Tiny networks for 96 px on CPUs, from random weights: what pretraining and demo share."""
    return from_scratch(
        source,
        size=96,
        tokenizer=tiny_tokenizer(patch=8),
        tokenizer_training=TrainConfig(
            steps=20_000, learning_rate=3e-3, warmup_steps=100, min_lr_ratio=0.02, ema=0.999
        ),
        tokenizer_options=KEEP_OBJECTS,
        world_model=tiny_world_model(),
        world_training=TrainConfig(
            steps=1400, learning_rate=1.5e-3, warmup_steps=100, min_lr_ratio=0.05
        ),
        clips_per_batch=4,
        cpus=1.0,
    )


def demo(source: Path, weights: Path) -> Experiment:
    """The sample at 96 px on a laptop: tiny networks, from the shipped weights. A few minutes."""
    e = small(source)
    polish = TrainConfig(steps=60, learning_rate=1e-4, warmup_steps=10)
    # A step of the world model costs as much as twenty of a tokenizer
    few = TrainConfig(steps=20, learning_rate=1e-4, warmup_steps=5)
    # The encoders stay as they are: the shipped world model was trained on their tokens
    tokenizer: dict[str, Any] = {"training": polish, "part": "decoder"}
    return replace(
        e,
        discover=replace(e.discover, hop_s=1.5, val_share=0.2),
        # Half the cost of 192 px, and hardly worse (docs/annotators.md)
        keypoints=replace(
            e.keypoints,
            annotator=DenseFlow(root=str(source), clip_format=e.clip_format, frame_px=128),
        ),
        rgb_tokenizer=replace(
            e.rgb_tokenizer, start_from=annotators.shipped_weights("rgb_tokenizer"), **tokenizer
        ),
        depth_tokenizer=replace(
            e.depth_tokenizer, start_from=annotators.shipped_weights("depth_tokenizer"), **tokenizer
        ),
        world_model=replace(
            e.world_model, start_from=annotators.shipped_weights("world_model"), training=few
        ),
    )


def study(source: Path, weights: Path) -> Experiment:
    """For studies on two cores: 64 px, a small world model from random weights, minutes a run.

    The world model starts from random weights, so that all variants have the same start. The
    tokenizers start from the shipped ones, which are for 96 px.
    """
    e = from_scratch(
        source,
        size=64,
        tokenizer=tiny_tokenizer(patch=8),
        tokenizer_training=TrainConfig(steps=600, learning_rate=1e-3, warmup_steps=10),
        tokenizer_options=KEEP_OBJECTS,
        world_model=tiny_world_model(n_layers=3, d_model=96),
        world_training=TrainConfig(
            steps=600, learning_rate=2e-3, warmup_steps=20, min_lr_ratio=0.05
        ),
        hop_s=1.5,
        val_share=0.2,
        clips_per_batch=2,
        cpus=1.0,
    )
    flow = DenseFlow(root=str(source.absolute()), clip_format=e.clip_format, frame_px=128)
    shipped = annotators.shipped_weights
    return replace(
        e,
        keypoints=replace(e.keypoints, annotator=flow),
        rgb_tokenizer=replace(e.rgb_tokenizer, start_from=shipped("rgb_tokenizer")),
        depth_tokenizer=replace(e.depth_tokenizer, start_from=shipped("depth_tokenizer")),
        evaluation=replace(e.evaluation, n_clips=24),
    )


def moving_camera(source: Path, weights: Path) -> Experiment:
    """study on episodes whose head camera sways, for the study `camera-motion`.

    Tracks are exact, since the small trackers hardly follow a moving camera, and of few points:
    with many, enough of them are on what moves (docs/annotators.md).
    """
    e = choose(study(source, weights), "keypoints.annotator", "truth", weights)
    return replace(e, keypoints=replace(e.keypoints, grid=16))


def smoke(source: Path, weights: Path) -> Experiment:
    """Every stage for a few seconds at 64 px, from random weights: a test that all of it works."""
    few = TrainConfig(steps=4, warmup_steps=1)
    return from_scratch(
        source,
        size=64,
        tokenizer=tiny_tokenizer(patch=16),
        tokenizer_training=few,
        world_model=tiny_world_model(n_layers=2, d_model=32),
        world_training=few,
        hop_s=2.0,
        val_share=0.34,
        cpus=1.0,
    )


def sensor_labels(source: Path, weights: Path) -> Experiment:
    """AGIBOT-World at 256 px, published sizes, labels by the stand-ins: for GPUs and a cluster."""
    e = from_scratch(
        source,
        size=256,
        tokenizer=one_x(),
        tokenizer_training=TrainConfig(steps=100_000, learning_rate=1e-4, ema=0.999),
        world_model=small_world_model(),
        world_training=TrainConfig(steps=200_000, precision="bfloat16"),
        watch=WATCH_LONG,
        cpus=4.0,
        gpus=1.0,
    )
    discriminator = DiscriminatorConfig()  # MAGVIT-2's patch discriminator
    return replace(
        e,
        rgb_tokenizer=replace(e.rgb_tokenizer, discriminator=discriminator),
        depth_tokenizer=replace(e.depth_tokenizer, discriminator=discriminator),
        rgb_tokens=replace(e.rgb_tokens, precision="bfloat16"),
        depth_tokens=replace(e.depth_tokens, precision="bfloat16"),
    )


def genie(source: Path, weights: Path) -> Experiment:
    """sensor-labels with a Genie-like network: 1xgpt's layout, no depth branch, RGB loss alone."""
    e = sensor_labels(source, weights)
    return e.vary(Overrides(weights).changed_fields(e, GENIE))


def pseudo_labels(source: Path, weights: Path) -> Experiment:
    """sensor-labels with the paper's annotators: Video Depth Anything and SpatialTracker."""
    e = choose(sensor_labels(source, weights), "depth.annotator", DEPTH_WEIGHTS, weights)
    return choose(e, "keypoints.annotator", TRACK_WEIGHTS, weights)


def paper(source: Path, weights: Path) -> Experiment:
    """The paper's setup: its annotators, 1X's MAGVIT-2, and actions added to the tokens."""
    e = pseudo_labels(source, weights)
    for tokenizer in ("rgb_tokenizer", "depth_tokenizer"):
        e = choose(e, tokenizer, TOKENIZER_WEIGHTS, weights)
    return replace(e, world_model=replace(e.world_model, model=paper_small()))
