"""What size and data bring."""

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import Study, Variant
from stages.comparison.contrasts import DEPTH, PSNR
from stages.comparison.verdicts import Claim


def _sized(name: str, about: str, **model: int) -> Variant:
    return Variant(
        name=name,
        about=about,
        overrides={f"world_model.model.{field}": value for field, value in model.items()},
    )


SCALING = Study(
    name="scaling",
    question="What do a larger network and more episodes bring, for RGB and for depth?",
    variants=(
        Variant(name="base", about="the experiment's network, all episodes"),
        _sized("half as wide", "half the width", d_model=48),
        _sized("half as deep", "half the layers", n_layers=2),
        Variant(
            name="6 episodes",
            about="of the training split",
            overrides={"world_model.n_episodes": 6},
        ),
        Variant(
            name="12 episodes",
            about="of the training split",
            overrides={"world_model.n_episodes": 12},
        ),
    ),
    # Widths, layers and episodes are meant for the demo's network and sample
    scales={"demo": SCALES["demo"]},
    claims=(
        Claim(
            text="A wider network makes better videos",
            better="base", than="half as wide", place=PSNR,
        ),
        Claim(
            text="More episodes make better videos",
            better="base", than="6 episodes", place=PSNR,
        ),
        Claim(
            text="More episodes make better depth, too",
            better="base", than="6 episodes", place=DEPTH,
        ),
    ),
)  # fmt: skip
