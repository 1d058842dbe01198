"""How well actions steer the video, by every form of other actions, and for how long."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import Study, Variant
from pipeline.experiments.world_model import GENIE
from stages.comparison.contrasts import CONTROL, Place
from stages.comparison.verdicts import Claim
from stages.evaluation.controls import GAUSSIAN, HELD, MIRRORED

# All forms, for all variants: each is another rollout of every clip
ALL_FORMS: Mapping[str, Any] = MappingProxyType(
    {
        "evaluation.gaussian_draws": 5,
        "evaluation.held_actions": True,
        "evaluation.mirrored_actions": True,
    }
)
MODULATED: Mapping[str, Any] = MappingProxyType(
    {"world_model.model.action_conditioning": "modulate"}
)

# The control cannot be steered: what it loses under other actions is chance
CONTROLLABILITY = Study(
    name="controllability",
    question="How well do actions steer the video, and when is control lost?",
    variants=(
        Variant(
            name="modulated",
            about="actions scale, shift and gate every block (AdaLN)",
            overrides=MODULATED,
        ),
        Variant(
            name="added",
            about="a linear map of the action is added to every token, as the paper says",
            overrides={"world_model.model.action_conditioning": "add"},
        ),
        Variant(name="genie", about="1xgpt's layout, RGB loss alone", overrides=GENIE),
        Variant(
            name="shuffled actions",
            about="the control: in training, each clip has another one's actions",
            overrides={**MODULATED, "world_model.shuffled": "actions"},
        ),
    ),
    scales={
        scale: replace(how, overrides={**how.overrides, **ALL_FORMS})
        for scale, how in SCALES.items()
    },
    claims=(
        *(
            Claim(
                text=f"{what} cost more than chance",
                better="modulated", than="shuffled actions", place=place,
            )
            for what, place in (
                ("Another clip's actions", CONTROL),
                ("Gaussian actions", Place(metric=GAUSSIAN)),
                ("Held actions", Place(metric=HELD)),
                ("Mirrored movements", Place(metric=MIRRORED)),
            )
        ),
        Claim(
            text="Added actions steer more than chance, too",
            better="added", than="shuffled actions", place=CONTROL,
        ),
        Claim(
            text="Modulated blocks are steered better than added actions",
            better="modulated", than="added", place=CONTROL,
        ),
        Claim(
            text="RoboScape's losses and depth make it easier to steer than a Genie-like network",
            better="modulated", than="genie", place=CONTROL,
        ),
    ),
)  # fmt: skip
