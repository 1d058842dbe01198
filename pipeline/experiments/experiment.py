"""The complete configuration of a run: one stage of each kind, by the names in pipeline/flow.py."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.experiments import agreement
from pipeline.experiments.field_values import check_fields
from stages.annotator_training.spatial_tracker import TrainSpatialTracker
from stages.annotator_training.truth import Truth
from stages.annotator_training.video_depth import TrainVideoDepth
from stages.base import Stage
from stages.clip_format import ClipFormat
from stages.clips.clip import Clip
from stages.clips.discover import Discover
from stages.depth.stage import PseudoDepth
from stages.evaluation.stage import Evaluate
from stages.keypoints.stage import Keypoints
from stages.label_quality.score_stage import ScoreLabels
from stages.label_quality.stage import LabelQuality
from stages.token_quality.stage import TokenQuality
from stages.tokenizer.published import PublishedTokenizer
from stages.tokenizer.tokenize import Tokens
from stages.tokenizer.train import TrainTokenizer
from stages.world_model.train import TrainWorldModel


class StageSet:
    """Base of the dataclasses whose fields are a run's stages and what these share."""

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            check_fields(part, name)
        agreement.check(vars(self))

    @property
    def stages(self) -> list[Stage]:
        return [part for part in vars(self).values() if isinstance(part, Stage)]

    def vary(self, parts: Mapping[str, Any], given: Collection[str] = ()) -> Self:
        """A copy with other parts; what the remaining parts share with them follows.

        given: dotted paths that a user set, which must not change. Raises ValueError if they
        contradict each other.
        """
        return type(self)(**agreement.follow(vars(self), {**vars(self), **parts}, given))


@dataclass(frozen=True, kw_only=True)
class Experiment(StageSet):
    """One stage of each kind; fields have the stages' names and the order in which they run.

    Raises ValueError if two stages disagree on something that they share.
    """

    clip_format: ClipFormat
    discover: Discover
    clip: Clip
    depth: PseudoDepth
    keypoints: Keypoints
    label_quality: LabelQuality
    label_scores: ScoreLabels
    rgb_tokenizer: TrainTokenizer | PublishedTokenizer
    depth_tokenizer: TrainTokenizer | PublishedTokenizer
    rgb_tokens: Tokens
    depth_tokens: Tokens
    token_quality: TokenQuality
    world_model: TrainWorldModel
    evaluation: Evaluate


@dataclass(frozen=True, kw_only=True)
class AnnotatorTraining(StageSet):
    """The training of a small annotator: its stages, in the order in which they run."""

    clip_format: ClipFormat
    discover: Discover
    clip: Clip
    truth: Truth
    annotator: TrainVideoDepth | TrainSpatialTracker
