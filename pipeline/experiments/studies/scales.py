"""The scales of studies, and the changes that several studies have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.study import Scale, ScaleSetting
from pipeline.experiments.world_model import DEPTH_WEIGHTS

ROBOSCAPE = "RoboScape, arXiv:2506.23135"

# On two cores, in 45 minutes a study: a smaller network at 64 px, from random weights, so that all
# variants have the same start, on overlapping clips. Two fifths of the episodes are held out, since
# intervals are over episodes. The tokenizers start from the shipped ones, which are for 96 px.
TWO_CORES: Mapping[str, Any] = MappingProxyType(
    {
        "clip_format.size": 64,
        "discover.hop_s": 0.5,
        "discover.val_share": 0.4,
        "rgb_tokenizer.part": "all",
        "rgb_tokenizer.training.steps": 1500,
        "rgb_tokenizer.training.learning_rate": 1e-3,
        "depth_tokenizer.part": "all",
        "depth_tokenizer.training.steps": 500,
        "depth_tokenizer.training.learning_rate": 1e-3,
        "world_model.start_from": None,
        "world_model.model.d_model": 96,
        "world_model.model.n_layers": 3,
        "world_model.clips_per_batch": 2,
        "world_model.training.steps": 600,
        "world_model.training.learning_rate": 2e-3,
        "world_model.training.warmup_steps": 20,
        "world_model.training.min_lr_ratio": 0.05,
        "evaluation.n_clips": 24,
        # Depth of all variants alike, also of those without a depth branch
        "evaluation.depth_annotator": "vda-tiny",
    }
)
SCALES: Mapping[Scale, ScaleSetting] = MappingProxyType(
    {
        "smoke": ScaleSetting(experiment="smoke", seeds=(0,)),
        "demo": ScaleSetting(experiment="demo", overrides=TWO_CORES),
        "paper": ScaleSetting(
            experiment="paper", overrides={"evaluation.depth_annotator": DEPTH_WEIGHTS}
        ),
    }
)
