"""Whether easy clips first help."""

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import Study, Variant
from stages.comparison.contrasts import PSNR
from stages.comparison.verdicts import Claim

CURRICULUM = Study(
    name="curriculum",
    question="Does it help to train on easy clips first, at equal steps?",
    variants=(
        Variant(name="random", about="clips in random order"),
        Variant(
            name="easy first",
            about="little motion first, all clips from 60 % of the steps on",
            overrides={"world_model.order": "easy-first"},
        ),
        Variant(
            name="hard first",
            about="the control: much motion first",
            overrides={"world_model.order": "hard-first"},
        ),
    ),
    scales=SCALES,
    claims=(
        Claim(
            text="Easy clips first give a better world model than random order",
            better="easy first", than="random", place=PSNR,
        ),
        Claim(
            text="The direction matters: easy first is better than hard first",
            better="easy first", than="hard first", place=PSNR,
        ),
    ),
)  # fmt: skip
