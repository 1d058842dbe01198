"""The whole data path, in the order it runs: read `data_path` first.

The rest of the file is how it is run: as a Prefect flow (`roboscape`), or only planned, to say what a run would make.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.utilities.annotations import quote

from pipeline import experiments
from pipeline.annotators import AnnotatorTraining
from pipeline.crashes import close_leftovers
from pipeline.executor import StageFailed
from pipeline.experiments import Experiment
from pipeline.journal import start_journal
from pipeline.provenance import non_commercial, non_commercial_text, weights_of
from pipeline.ray_driver import connect_ray
from pipeline.run_stage import AnyStage, RunContext, output_ref, run_stage, taken
from pipeline.settings import Settings
from storage.store import StoreRef

StageName = Literal[
    "discover", "clip", "depth", "keypoints", "label_quality", "label_scores", "rgb_tokenizer", "depth_tokenizer",
    "rgb_tokens", "depth_tokens", "world_model", "evaluation", "truth", "depth_annotator", "keypoint_annotator",
]  # fmt: skip
STAGES: tuple[str, ...] = get_args(StageName)


class RunStage(Protocol):
    """Makes a stage's output from those offered stores that it declares as inputs, or tells where it would lie."""

    def __call__(self, stage: AnyStage, **offered: StoreRef) -> StoreRef: ...


def data_path(e: Experiment | AnnotatorTraining, run: RunStage) -> StoreRef:
    """Episodes to an evaluated world model. One line a stage; an argument is an edge of the lineage graph."""
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
    model = run(e.world_model, discover=index, clip=clips, keypoints=tracks, label_quality=quality, **tokens)
    decoders = {"rgb_tokenizer": rgb_tokenizer, "depth_tokenizer": depth_tokenizer}
    return run(e.evaluation, world_model=model, discover=index, clip=clips, depth=depth, **tokens, **decoders)


def annotator_path(e: AnnotatorTraining, run: RunStage) -> StoreRef:
    """Simulated episodes to a small annotator, trained on their exact labels."""
    index = run(e.discover)
    clips = run(e.clip, discover=index)
    truth = run(e.truth, discover=index, clip=clips)
    return run(e.annotator, discover=index, clip=clips, truth=truth)


@flow(name="roboscape", flow_run_name="{experiment}", persist_result=False, validate_parameters=True)
def roboscape(
    experiment: experiments.Name = "demo",
    source: str = "",
    stages: list[StageName] = list(STAGES),  # type: ignore[arg-type]  # noqa: B006  (the run form shows them)
    force: bool = False,
    overrides: dict[str, Any] = {},  # noqa: B006
    backend: Literal["ray", "serial"] | None = None,
    max_error_share: float = 0.01,
) -> str:
    """Runs an experiment's stages; what is complete is reused.

    Args:
        experiment: which named configuration.
        source: root of the AGIBOT-World episodes; empty means the experiment's own.
        stages: make these; the others are reused where they are complete, and skipped where not.
        force: make the chosen stages again even where they are complete.
        overrides: single parameters, such as {"keypoints.grid": 16}.
        backend: `ray` (workers on the cluster) or `serial` (in this process).
        max_error_share: share of a stage's clips that may raise an error and be set aside as rejected.
    """
    settings = Settings()
    close_leftovers(settings)
    e = experiments.named(experiment, source or str(settings.sample(experiments.sample_name(experiment))), overrides)
    if text := non_commercial_text(non_commercial(weights_of(e))):
        get_run_logger().warning("Non-commercial: %s", text)
    request = dict(
        experiment=experiment, source=source, stages=stages, force=force, overrides=overrides, backend=backend,
        max_error_share=max_error_share,
    )  # fmt: skip
    context = RunContext(
        root=settings.stores,
        journal=start_journal(settings.runs, request),
        backend=backend or settings.backend,  # type: ignore[arg-type]
        stages=tuple(stages),
        force=force,
        max_error_share=max_error_share,
        stall_s=settings.stall_s,
    )
    with journaled(context), connect_ray(settings, wanted=context.backend == "ray"):
        return data_path(e, TaskRunner(context)).uri


@dataclass
class TaskRunner:
    """Runs each stage as a Prefect task; the first one that fails ends the run."""

    context: RunContext

    def __call__(self, stage: AnyStage, **offered: StoreRef) -> StoreRef:
        state = run_stage(stage, taken(stage, offered), quote(self.context), return_state=True)
        if not state.is_completed():
            failure = state.result(raise_on_failure=False)
            if isinstance(failure, BaseException) and not isinstance(failure, Exception):
                raise failure  # Ctrl-C goes on as such
            raise StageFailed(str(failure)) from (failure if isinstance(failure, BaseException) else None)
        return state.result()  # type: ignore[return-value]


@dataclass
class Planner:
    """Instead of running a stage, notes it, its inputs and where its output lies or would lie."""

    root: str
    planned: dict[str, tuple[AnyStage, dict[str, StoreRef], StoreRef]]

    def __call__(self, stage: AnyStage, **offered: StoreRef) -> StoreRef:
        inputs = taken(stage, offered)
        out = output_ref(stage, inputs, self.root)
        self.planned[stage.name] = (stage, inputs, out)
        return out

    def after(self, name: str) -> list[str]:
        """The stage and all that is made from it, in order."""
        chosen = {name}
        for stage, (_, inputs, _) in self.planned.items():
            if any(ref.stage in chosen for ref in inputs.values()):
                chosen.add(stage)
        return [stage for stage in self.planned if stage in chosen]


def plan(e: Experiment | AnnotatorTraining, root: str) -> Planner:
    planner = Planner(root=root, planned={})
    data_path(e, planner)
    return planner


@contextmanager
def journaled(context: RunContext) -> Iterator[None]:
    """Keeps the run's journal true to the end, also when the run fails or is interrupted."""
    journal = context.journal
    journal.prefect_run, journal.pid = flow_run.id or "", os.getpid()
    journal.save()
    try:
        with journal.beating():
            yield
    except KeyboardInterrupt:
        journal.close("crashed")
        raise
    except BaseException:
        journal.close("failed")
        raise
    journal.close("completed")
