"""The whole data path, in the order it runs: the table of contents. Imports neither Prefect nor
Ray.
"""

from typing import Literal, Protocol, get_args

from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from stages.base import Stage
from storage.stores.records import StoreRef

StageName = Literal[
    "discover", "clip", "depth", "keypoints", "label_quality", "label_scores", "rgb_tokenizer", "depth_tokenizer",
    "rgb_tokens", "depth_tokens", "world_model", "evaluation", "truth", "depth_annotator", "keypoint_annotator",
]  # fmt: skip
STAGES: tuple[str, ...] = get_args(StageName)


class RunStage(Protocol):
    """Makes a stage's output from those offered stores that it declares as inputs, or tells where
    it would lie.
    """

    def __call__(self, stage: Stage, **offered: StoreRef) -> StoreRef: ...


def data_path(e: Experiment | AnnotatorTraining, run: RunStage) -> StoreRef:
    """Episodes to an evaluated world model. One line a stage; an argument is an edge of the lineage
    graph.
    """
    if isinstance(e, AnnotatorTraining):
        return annotator_path(e, run)
    index = run(e.discover)
    clips = run(e.clip, discover=index)
    depth = run(e.depth, discover=index, clip=clips)
    tracks = run(e.keypoints, clip=clips, depth=depth)
    labels = {"clip": clips, "depth": depth, "keypoints": tracks}
    quality = run(e.label_quality, **labels)
    run(e.label_scores, discover=index, label_quality=quality, **labels)

    rgb_tokenizer = run(e.rgb_tokenizer, discover=index, clip=clips)
    depth_tokenizer = run(e.depth_tokenizer, discover=index, depth=depth)
    rgb_tokens = run(e.rgb_tokens, clip=clips, tokenizer=rgb_tokenizer)
    depth_tokens = run(e.depth_tokens, depth=depth, tokenizer=depth_tokenizer)

    tokens = {"rgb_tokens": rgb_tokens, "depth_tokens": depth_tokens}
    model = run(
        e.world_model, discover=index, clip=clips, keypoints=tracks, label_quality=quality, **tokens
    )
    decoders = {"rgb_tokenizer": rgb_tokenizer, "depth_tokenizer": depth_tokenizer}
    return run(
        e.evaluation,
        world_model=model,
        discover=index,
        clip=clips,
        depth=depth,
        **tokens,
        **decoders,
    )


def annotator_path(e: AnnotatorTraining, run: RunStage) -> StoreRef:
    """Simulated episodes to a small annotator, trained on their exact labels."""
    index = run(e.discover)
    clips = run(e.clip, discover=index)
    truth = run(e.truth, discover=index, clip=clips)
    return run(e.annotator, discover=index, clip=clips, truth=truth)
