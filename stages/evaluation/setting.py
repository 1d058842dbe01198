"""What was evaluated and how, for the page and `metrics.json`."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stages.evaluation.scores import (
    CAMERA,
    ESTIMATED_DEPTH,
    PSEUDO_DEPTH,
    PSEUDO_TRACKS,
    TRUE_DEPTH,
)


@runtime_checkable
class TableSetting(Protocol):
    """What a table says of how its numbers were measured."""

    @property
    def has_lpips(self) -> bool: ...

    @property
    def has_fvd(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was evaluated and how, for the notes below the tables."""

    split: str
    n_clips: int
    n_usable: int
    rate_hz: float
    n_frames: int
    has_lpips: bool
    has_fvd: bool
    has_depth: bool
    depth_annotator: str  # name, and what it stands in for
    depth_units: str
    depth_estimator: str  # annotator that is run on predicted videos; empty if none is
    tracks_annotator: str  # likewise, of the true tracks; empty if they are not read
    tracker: str  # of predicted videos
    sampling: str
    seed: int
    gaussian_draws: int  # of actions, for each clip
    held_actions: bool
    mirrored_actions: bool
    flagged: str  # flags of the evaluated clips, with counts
    dropped: str  # flags for which clips were left out


def in_words(reference: str, setting: Setting) -> str:
    annotators = {
        PSEUDO_DEPTH: setting.depth_annotator,
        ESTIMATED_DEPTH: f"of the {CAMERA}, by {setting.depth_estimator}",
        TRUE_DEPTH: "of the simulation, exact",
        PSEUDO_TRACKS: setting.tracks_annotator,
    }
    by = f" ({annotators[reference]})" if reference in annotators else ""
    return f"the {reference}{by}"
