"""Whether a moving camera makes training take the background for what moves."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.ablations import NO_ATTENTION, NO_KEYPOINTS
from pipeline.experiments.studies.scales import BY_VDA_TINY, SCALES
from pipeline.experiments.studies.study import ScaleSetting, StageNumber, Study, Variant
from stages.comparison.contrasts import CONTROL, PSNR
from stages.comparison.verdicts import Claim

COMPENSATED: Mapping[str, Any] = MappingProxyType({"world_model.tracks.compensate_camera": True})

CAMERA_MOTION = Study(
    name="camera-motion",
    question="Under a moving camera, does training take the background for what moves?",
    variants=(
        Variant(
            name="compensated",
            about="tracks by their motion against the background's",
            overrides=COMPENSATED,
        ),
        Variant(name="not compensated", about="tracks by their motion in the picture"),
        Variant(
            name="no tracks",
            about="the control: λ2 = λ3 = 0",
            overrides={**NO_KEYPOINTS, **NO_ATTENTION},
        ),
    ),
    scales={
        "smoke": SCALES["smoke"],
        "demo": ScaleSetting(experiment="moving-camera", overrides=BY_VDA_TINY),
        "paper": SCALES["paper"],
    },
    claims=(
        Claim(
            text="Compensation of the camera's motion raises the quality of the video",
            better="compensated", than="not compensated", place=PSNR,
        ),
        Claim(
            text="Compensation of the camera's motion makes actions steer the video more",
            better="compensated", than="not compensated", place=CONTROL,
        ),
        Claim(
            text="Under a moving camera, tracks without compensation are worse than none",
            better="no tracks", than="not compensated", place=PSNR,
        ),
    ),
    # By exact truth, of simulated episodes; both ways are measured whatever a variant trains with
    numbers=tuple(
        StageNumber(stage="label_scores", name=f"{name}{suffix}", text=f"{text}, {way}", form=".0%")
        for suffix, way in (("_compensated", "compensated"), ("", "not compensated"))
        for name, text in (
            ("active_on_background", "active tracks on the still background"),
            ("active_moving_in_world", "active tracks that move in the world"),
        )
    ),
)  # fmt: skip
