"""Experiments by name: the sample and weights that each needs, and how it is built."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.experiments import annotator_training
from pipeline.experiments.annotators import ROLES, choose
from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from pipeline.experiments.overrides import Overrides
from pipeline.experiments.world_model import (
    DEPTH_WEIGHTS,
    TOKENIZER_WEIGHTS,
    TRACK_WEIGHTS,
    demo,
    genie,
    moving_camera,
    paper,
    pretrain,
    pseudo_labels,
    sensor_labels,
    smoke,
    study,
)
from simulation.config import SampleConfig, demo_sample
from storage.weights.folder import require_files

Name = Literal[
    "demo",
    "smoke",
    "study",
    "moving-camera",
    "pretrain",
    "sensor-labels",
    "genie",
    "pseudo-labels",
    "paper",
    "vda-tiny",
    "spatracker-tiny",
]

EXPERIMENTS: dict[str, Callable[[Path, Path], Experiment | AnnotatorTraining]] = {
    "demo": demo,
    "smoke": smoke,
    "study": study,
    "moving-camera": moving_camera,
    "pretrain": pretrain,
    "sensor-labels": sensor_labels,
    "genie": genie,
    "pseudo-labels": pseudo_labels,
    "paper": paper,
    "vda-tiny": annotator_training.vda_tiny,
    "spatracker-tiny": annotator_training.spatracker_tiny,
}

SAMPLES: dict[str, SampleConfig] = {
    "demo": demo_sample(),
    "smoke": replace(
        demo_sample(), n_episodes=6, duration_s=9.5, rate_hz=4.0, width=128, height=96
    ),
    # Twice the demo's: what studies can tell is limited by the number of scenes, held out or not
    "study": replace(demo_sample(), n_episodes=60),
    "moving-camera": replace(demo_sample(), n_episodes=60, camera_motion=1.0),
    # Other seeds than the demo's, so that pretraining sees nothing that the demo evaluates on. Many
    # short episodes: what limits the tokens is the number of scenes (docs/tokens.md).
    "pretrain": replace(demo_sample(), n_episodes=1000, seed=1000, rate_hz=4.0, duration_s=9.0),
    "annotators": annotator_training.SAMPLE,
}

# Experiments on the sample of another name; the others have one of their own name, or none.
SHARED_SAMPLES: dict[str, str] = dict.fromkeys(annotator_training.NAMES, "annotators")

# Published weights (`roboscape weights list`) that an experiment needs, checked before it runs
WEIGHTS: dict[str, tuple[str, ...]] = {
    "pseudo-labels": (DEPTH_WEIGHTS, TRACK_WEIGHTS),
    "paper": (DEPTH_WEIGHTS, TRACK_WEIGHTS, TOKENIZER_WEIGHTS),
}

assert set(EXPERIMENTS) == set(get_args(Name)) and set(WEIGHTS) <= set(EXPERIMENTS)


def sample_name(experiment: str) -> str:
    """The name of its simulated episodes, which experiments may share."""
    return SHARED_SAMPLES.get(experiment, experiment)


def named(
    name: str, source: str, overrides: Mapping[str, Any], weights: Path
) -> Experiment | AnnotatorTraining:
    """The experiment on these episodes, with single parameters changed: {"keypoints.grid": 16}.

    weights: the folder of published weights. Raises ValueError for an unknown name or parameter and
    for contradicting parameters, FileNotFoundError if there are no episodes, WeightsError if
    published weights are missing.
    """
    require_weights(name, weights)
    if not Path(source).exists():
        own = sample_name(name) in SAMPLES
        makes = f"; `roboscape run {name}`, without --plan or --source, makes its own first"
        raise FileNotFoundError(
            f"no episodes at {source}: set --source to an AGIBOT-World root; `roboscape sample` "
            f"makes simulated ones{makes if own else ''}"
        )
    e = EXPERIMENTS[name](Path(source).absolute(), weights)
    if isinstance(e, Experiment):
        chosen = {role: overrides[role] for role in ROLES if isinstance(overrides.get(role), str)}
        for role, annotator in chosen.items():
            e = choose(e, role, annotator, weights)
        overrides = {path: value for path, value in overrides.items() if path not in chosen}
    return e.vary(Overrides(weights).changed_fields(e, overrides), given=overrides)


def require_weights(name: str, weights: Path) -> None:
    """Raises WeightsError, saying how to get them, if weights that it needs are missing."""
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment '{name}'; there is: {', '.join(EXPERIMENTS)}")
    require_files(WEIGHTS.get(name, ()), weights)


def descriptions() -> dict[str, str]:
    """Name -> first paragraph of the experiment's docstring."""
    paragraphs = {
        name: (function.__doc__ or "").partition("\n\n")[0]
        for name, function in EXPERIMENTS.items()
    }
    return {name: " ".join(text.split()) for name, text in paragraphs.items()}
