"""How far errors of the labels reach into the world model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.experiments.studies.scales import SCALES
from pipeline.experiments.studies.study import ScaleSetting, Study, Variant
from stages.comparison.contrasts import CONTROL, DEPTH_BY_TRUTH, PSNR
from stages.comparison.verdicts import Claim

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
        Variant(
            name="sensor depth",
            about="of the depth camera, noise and holes; exact tracks",
            overrides={**TRUTH, "depth.annotator": "sensor"},
        ),
        Variant(
            name="vda-tiny depth",
            about="of a small network; exact tracks",
            overrides={**TRUTH, "depth.annotator": "vda-tiny"},
        ),
        Variant(
            name="lucas-kanade tracks",
            about="exact depth",
            overrides={**TRUTH, "keypoints.annotator": "lucas-kanade"},
        ),
    ),
    scales={
        "smoke": SCALES["smoke"],
        # Thirty runs in 45 minutes on two cores; depth is scored by the truth
        "demo": ScaleSetting(experiment="study", overrides={"world_model.training.steps": 400}),
    },
    claims=(
        Claim(
            text="Strong noise in depth reaches the predicted depth",
            better="truth", than="depth noise 0.4", place=DEPTH_BY_TRUTH,
        ),
        Claim(
            text="A bias of depth that no scale mends reaches the predicted depth",
            better="truth", than="depth tilt 0.4", place=DEPTH_BY_TRUTH,
        ),
        Claim(
            text="A sensor's errors reach the predicted depth",
            better="truth", than="sensor depth", place=DEPTH_BY_TRUTH,
        ),
        Claim(
            text="Strong noise in depth costs quality of the video",
            better="truth", than="depth noise 0.4", place=PSNR,
        ),
        Claim(
            text="Strong noise in tracks costs quality of the video",
            better="truth", than="track noise 16", place=PSNR,
        ),
        Claim(
            text="Strong noise in tracks costs control",
            better="truth", than="track noise 16", place=CONTROL,
        ),
        Claim(
            text="A tracker's errors cost control",
            better="truth", than="lucas-kanade tracks", place=CONTROL,
        ),
    ),
)  # fmt: skip
