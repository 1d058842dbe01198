"""The whole data path, one line a stage in the order it runs: the table of contents.

An experiment (`pipeline.experiments`) says which stages, with which parameters. `run` makes each
stage's output, or only finds out where it is stored: it is a Prefect task runner in
`pipeline.orchestration.flow_run` and a planner in `pipeline.orchestration.plan`.
"""

from typing import Protocol

from pipeline.experiments.experiment import AnnotatorTraining, Experiment
from stages.base import Stage
from storage.stores.records import StoreRef


class RunStage(Protocol):
    """Returns the address of a stage's output, made from those offered stores that it declares.

    The name of an offered store is its role in the stage's `inputs`.
    """

    def __call__(self, stage: Stage, **offered: StoreRef) -> StoreRef: ...


def data_path(e: Experiment | AnnotatorTraining, run: RunStage) -> StoreRef:
    """Runs all stages of an experiment; returns the last output, such as the evaluation."""
    if isinstance(e, AnnotatorTraining):
        return annotator_path(e, run)
    return world_model_path(e, run)


def world_model_path(e: Experiment, run: RunStage) -> StoreRef:
    """Episodes to an evaluated world model. An argument is an edge of the lineage graph."""
    # Clips of the episodes, and their pseudo labels
    index = run(e.discover)
    clips = run(e.clip, discover=index)
    depth = run(e.depth, discover=index, clip=clips)
    tracks = run(e.keypoints, discover=index, clip=clips, depth=depth)

    # How good the labels are: from the clips alone, and against the truth where there is one
    labels = {"clip": clips, "depth": depth, "keypoints": tracks}
    quality = run(e.label_quality, **labels)
    run(e.label_scores, discover=index, label_quality=quality, **labels)

    # Images and depth as tokens
    rgb_tokenizer = run(e.rgb_tokenizer, discover=index, clip=clips)
    depth_tokenizer = run(e.depth_tokenizer, discover=index, depth=depth)
    rgb_tokens = run(e.rgb_tokens, clip=clips, tokenizer=rgb_tokenizer)
    depth_tokens = run(e.depth_tokens, depth=depth, tokenizer=depth_tokenizer)

    # What the tokens keep of the frames; a world model can show no more
    run(
        e.token_quality,
        discover=index,
        clip=clips,
        rgb_tokens=rgb_tokens,
        rgb_tokenizer=rgb_tokenizer,
    )

    # The world model predicts tokens; the evaluation decodes them and compares with the clips
    data = {
        "discover": index,
        "clip": clips,
        "rgb_tokens": rgb_tokens,
        "depth_tokens": depth_tokens,
    }
    model = run(e.world_model, keypoints=tracks, label_quality=quality, **data)
    decoders = {"rgb_tokenizer": rgb_tokenizer, "depth_tokenizer": depth_tokenizer}
    return run(
        e.evaluation,
        world_model=model,
        depth=depth,
        keypoints=tracks,
        label_quality=quality,
        **data,
        **decoders,
    )


def annotator_path(e: AnnotatorTraining, run: RunStage) -> StoreRef:
    """Simulated episodes to a small annotator, trained on their exact labels."""
    index = run(e.discover)
    clips = run(e.clip, discover=index)
    truth = run(e.truth, discover=index, clip=clips)
    return run(e.annotator, discover=index, clip=clips, truth=truth)
