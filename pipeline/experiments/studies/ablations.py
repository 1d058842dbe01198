"""The paper's ablations: what each part brings."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.scales import ROBOSCAPE, SCALES
from pipeline.experiments.studies.study import Study, Variant
from pipeline.experiments.world_model import GENIE, NO_DEPTH
from stages.comparison.contrasts import CONTROL, DEPTH, ESTIMATED, PSNR
from stages.comparison.verdicts import Claim

NO_KEYPOINTS: Mapping[str, Any] = MappingProxyType({"world_model.loss.keypoint": 0.0})
NO_ATTENTION: Mapping[str, Any] = MappingProxyType({"world_model.loss.attention": 0.0})

ABLATIONS = Study(
    name="ablations",
    question="What do depth, the keypoint loss and the attention weighting each bring?",
    variants=(
        Variant(name="full", about="all losses, both branches"),
        Variant(name="no depth", about="no depth branch", overrides=NO_DEPTH),
        Variant(name="no keypoints", about="λ2 = 0", overrides=NO_KEYPOINTS),
        Variant(name="no attention", about="λ3 = 0", overrides=NO_ATTENTION),
        Variant(
            name="none",
            about="no depth branch, λ2 = λ3 = 0",
            overrides={**NO_DEPTH, **NO_KEYPOINTS, **NO_ATTENTION},
        ),
        Variant(name="genie", about="1xgpt's layout, RGB loss alone", overrides=GENIE),
    ),
    scales=SCALES,
    # With a source: the order in the paper's table of ablations, and in that of other models
    claims=(
        Claim(
            text="Depth makes the geometry of the video better",
            better="full", than="no depth", place=ESTIMATED, source=ROBOSCAPE,
        ),
        Claim(
            text="Keypoints make actions steer the video more",
            better="full", than="no keypoints", place=CONTROL, source=ROBOSCAPE,
        ),
        Claim(
            text="Without keypoints predicted depth is better",
            better="no keypoints", than="full", place=DEPTH, source=ROBOSCAPE,
        ),
        Claim(
            text="Depth and keypoints together raise the quality of the video",
            better="full", than="none", place=PSNR, source=ROBOSCAPE,
        ),
        Claim(
            text="Depth and keypoints together make actions steer the video more",
            better="full", than="none", place=CONTROL, source=ROBOSCAPE,
        ),
        Claim(
            text="RoboScape makes better videos than a Genie-like network",
            better="full", than="genie", place=PSNR, source=ROBOSCAPE,
        ),
        Claim(
            text="RoboScape is easier to steer than a Genie-like network",
            better="full", than="genie", place=CONTROL, source=ROBOSCAPE,
        ),
        Claim(
            text="The depth branch raises PSNR, which in the paper is 0.1 dB lower with it",
            better="full", than="no depth", place=PSNR,
        ),
        Claim(
            text="Attention to moving points raises the quality of the video",
            better="full", than="no attention", place=PSNR,
        ),
    ),
)  # fmt: skip
