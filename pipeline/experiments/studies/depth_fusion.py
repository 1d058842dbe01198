"""What the RGB branch has of the depth branch."""

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import Study, Variant
from pipeline.experiments.world_model import NO_DEPTH
from stages.comparison.contrasts import EDGE_SHARPNESS, ESTIMATED, PSNR
from stages.comparison.verdicts import Claim

DEPTH_FUSION = Study(
    name="depth-fusion",
    question="Does depth make the edges of things sharper, or the geometry more consistent?",
    variants=(
        Variant(name="full", about="the RGB branch reads the depth branch (W_l)"),
        Variant(
            name="no fusion",
            about="both branches, side by side",
            overrides={"world_model.model.fusion": False},
        ),
        Variant(
            name="shuffled depth",
            about="the control: in training, each clip has another one's depth",
            overrides={"world_model.shuffled": "depth"},
        ),
        Variant(name="no depth", about="no depth branch", overrides=NO_DEPTH),
    ),
    scales=SCALES,
    claims=(
        Claim(
            text="Reading the depth branch makes the edges of things sharper",
            better="full", than="no fusion", place=EDGE_SHARPNESS,
        ),
        Claim(
            text="Reading the depth branch makes the geometry of the video better",
            better="full", than="no fusion", place=ESTIMATED,
        ),
        Claim(
            text="It is the clip's own depth that makes it better, not a second branch",
            better="full", than="shuffled depth", place=ESTIMATED,
        ),
        Claim(
            text="Reading the depth branch raises the quality of the video",
            better="full", than="no fusion", place=PSNR,
        ),
    ),
)  # fmt: skip
