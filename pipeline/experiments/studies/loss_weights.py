"""How the weights of the losses trade one quality against another."""

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import Study, Variant
from stages.comparison.contrasts import PSNR
from stages.comparison.verdicts import Claim


def _weighted(name: str, **weights: float) -> Variant:
    about = ", ".join(f"{loss} {value:g}" for loss, value in weights.items())
    return Variant(
        name=name,
        about=about,
        overrides={f"world_model.loss.{loss}": value for loss, value in weights.items()},
    )


LOSS_WEIGHTS = Study(
    name="loss-weights",
    question="How do the weights of the losses trade RGB, depth and control against each other?",
    variants=(
        Variant(name="λ1 = 1, λ2 = 0.01, γ = 5", about="the paper's"),
        *(_weighted(f"λ1 = {value:g}", depth=value) for value in (0.1, 0.3, 3.0)),
        *(_weighted(f"λ2 = {value:g}", keypoint=value) for value in (0.1, 0.3, 1.0, 3.0)),
        *(_weighted(f"γ = {value:g}", gamma=value) for value in (1.0, 3.0, 10.0)),
    ),
    scales=SCALES,
    claims=(
        Claim(
            text="γ = 5 is better than no weighting of moving points",
            better="λ1 = 1, λ2 = 0.01, γ = 5", than="γ = 1", place=PSNR,
        ),
        Claim(
            text="A large weight of the keypoint loss costs quality",
            better="λ1 = 1, λ2 = 0.01, γ = 5", than="λ2 = 3", place=PSNR,
        ),
    ),
)  # fmt: skip
