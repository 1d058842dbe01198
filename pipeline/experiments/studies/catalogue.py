"""The studies by name. See docs/studies.md for what came out of them."""

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.experiments.studies.ablations import ABLATIONS
from pipeline.experiments.studies.camera_motion import CAMERA_MOTION
from pipeline.experiments.studies.controllability import CONTROLLABILITY
from pipeline.experiments.studies.curriculum import CURRICULUM
from pipeline.experiments.studies.depth_fusion import DEPTH_FUSION
from pipeline.experiments.studies.label_noise import LABEL_NOISE
from pipeline.experiments.studies.loss_weights import LOSS_WEIGHTS
from pipeline.experiments.studies.scaling import SCALING
from pipeline.experiments.studies.study import Study

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (
            ABLATIONS,
            LOSS_WEIGHTS,
            DEPTH_FUSION,
            CONTROLLABILITY,
            LABEL_NOISE,
            CAMERA_MOTION,
            CURRICULUM,
            SCALING,
        )
    }
)


def named_study(name: str) -> Study:
    """Raises ValueError, naming those there are."""
    if name not in STUDIES:
        raise ValueError(f"no study '{name}'; there is: {', '.join(STUDIES)}")
    return STUDIES[name]
