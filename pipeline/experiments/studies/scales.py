"""The scales of studies, and the changes that several studies have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.study import Scale, ScaleSetting
from pipeline.experiments.world_model import DEPTH_WEIGHTS

ROBOSCAPE = "RoboScape, arXiv:2506.23135"

# Depth of all variants alike, also of those without a depth branch
BY_VDA_TINY: Mapping[str, Any] = MappingProxyType({"evaluation.depth_annotator": "vda-tiny"})
BY_VDA: Mapping[str, Any] = MappingProxyType({"evaluation.depth_annotator": DEPTH_WEIGHTS})
SCALES: Mapping[Scale, ScaleSetting] = MappingProxyType(
    {
        "smoke": ScaleSetting(experiment="smoke", seeds=(0,)),
        "demo": ScaleSetting(experiment="study", overrides=BY_VDA_TINY),
        "paper": ScaleSetting(experiment="paper", overrides=BY_VDA),
    }
)
