"""What a run is made of: one stage of each kind, named as the flow names them."""

from dataclasses import dataclass

from stages.annotator_training.spatial_tracker import TrainSpatialTracker
from stages.annotator_training.truth import Truth
from stages.annotator_training.video_depth import TrainVideoDepth
from stages.clips.clip import Clip
from stages.clips.discover import Discover
from stages.depth.stage import PseudoDepth
from stages.evaluation.stage import Evaluate
from stages.keypoints.stage import Keypoints
from stages.label_quality.score_stage import ScoreLabels
from stages.label_quality.stage import LabelQuality
from stages.tokenizer.published import PublishedTokenizer
from stages.tokenizer.tokenize import Tokens
from stages.tokenizer.train import TrainTokenizer
from stages.world_model.train import TrainWorldModel


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One stage of each kind; the fields are named as the stages are, in the order in which they
    run.
    """

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
    world_model: TrainWorldModel
    evaluation: Evaluate


@dataclass(frozen=True, kw_only=True)
class AnnotatorTraining:
    """The stages of such a training, in the order in which they run."""

    discover: Discover
    clip: Clip
    truth: Truth
    annotator: TrainVideoDepth | TrainSpatialTracker
