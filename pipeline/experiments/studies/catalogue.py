"""The studies by name. See docs/studies.md for what came out of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.study import Scale, ScaleSetting, Study, Variant
from pipeline.experiments.world_model import DEPTH_WEIGHTS, GENIE, NO_DEPTH
from stages.comparison.contrasts import CONTROL, DEPTH, ESTIMATED, PSNR
from stages.comparison.verdicts import Claim

ROBOSCAPE = "RoboScape, arXiv:2506.23135"
NO_KEYPOINTS: Mapping[str, Any] = MappingProxyType({"world_model.loss.keypoint": 0.0})
NO_ATTENTION: Mapping[str, Any] = MappingProxyType({"world_model.loss.attention": 0.0})

# On two cores: world models from random weights, so that all variants have the same start. The
# tokenizers are the shipped ones, a step of whose decoders changes no token.
TWO_CORES: Mapping[str, Any] = MappingProxyType(
    {
        "world_model.start_from": None,
        "world_model.training.steps": 150,
        "world_model.training.learning_rate": 2e-3,
        "world_model.training.warmup_steps": 20,
        "world_model.training.min_lr_ratio": 0.05,
        "rgb_tokenizer.training.steps": 1,
        "depth_tokenizer.training.steps": 1,
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

TRUTH: Mapping[str, Any] = MappingProxyType(
    {"depth.annotator": "truth", "keypoints.annotator": "truth"}
)


def _spoiled(name: str, about: str, **parts: Mapping[str, float]) -> Variant:
    changes = {f"{stage}.spoil": dict(values) for stage, values in parts.items()}
    return Variant(name=name, about=about, overrides={**TRUTH, **changes})


# On simulated episodes: real ones have no exact labels to start from
LABEL_NOISE = Study(
    name="label-noise",
    question="How far do the annotators' errors reach into the world model?",
    variants=(
        Variant(name="truth", about="exact depth and tracks", overrides=TRUTH),
        _spoiled("depth noise 0.1", "10 % noise in each pixel", depth={"noise": 0.1}),
        _spoiled("depth noise 0.4", "40 % noise in each pixel", depth={"noise": 0.4}),
        _spoiled("depth tilt 0.4", "40 % more at the right edge", depth={"tilt": 0.4}),
        _spoiled("track noise 4", "4 px of 256 in each position", keypoints={"noise": 4.0}),
        _spoiled("track noise 16", "16 px of 256 in each position", keypoints={"noise": 16.0}),
        _spoiled("track drift 4", "4 px of 256 a frame, all points", keypoints={"drift": 4.0}),
        Variant(name="annotators", about="the experiment's own annotators"),
    ),
    scales={scale: SCALES[scale] for scale in ("smoke", "demo")},
    claims=(
        Claim(
            text="Strong noise in depth costs quality",
            better="truth", than="depth noise 0.4", place=PSNR,
        ),
        Claim(
            text="Strong noise in tracks costs quality",
            better="truth", than="track noise 16", place=PSNR,
        ),
        Claim(
            text="Exact labels give a better world model than the annotators'",
            better="truth", than="annotators", place=PSNR,
        ),
    ),
)  # fmt: skip

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
        _sized("half as wide", "half the width", d_model=64, n_heads=2),
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

STUDIES: Mapping[str, Study] = MappingProxyType(
    {study.name: study for study in (ABLATIONS, LOSS_WEIGHTS, LABEL_NOISE, CURRICULUM, SCALING)}
)


def named_study(name: str) -> Study:
    """Raises ValueError, naming those there are."""
    if name not in STUDIES:
        raise ValueError(f"no study '{name}'; there is: {', '.join(STUDIES)}")
    return STUDIES[name]
