"""The data path as a Prefect flow: the run form, and how each stage becomes a task."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import httpx
from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.utilities.annotations import quote

from pipeline.experiments import registry
from pipeline.flow import data_path
from pipeline.lineage.provenance import non_commercial, non_commercial_text, weights_of
from pipeline.lineage.reach import GATE, run_may_end_alone
from pipeline.orchestration.crashed_runs import close_leftovers
from pipeline.orchestration.disk_estimate import estimate, require_space
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.interrupts import interrupted_by, sigterm_interrupts
from pipeline.orchestration.journal import Journal, start_journal
from pipeline.orchestration.plan import experiment_of, plan
from pipeline.orchestration.ray_session import connect_ray
from pipeline.orchestration.recipe import declared_inputs
from pipeline.orchestration.services import ServiceError
from pipeline.orchestration.stage_task import RunContext, run_stage
from pipeline.settings import Settings
from stages.base import Stage
from storage.stores import leases
from storage.stores.records import StoreRef

# The stages to choose from in the run form
StageName = Literal[
    "discover", "clip", "depth", "keypoints", "label_quality", "label_scores",
    "rgb_tokenizer", "depth_tokenizer", "rgb_tokens", "depth_tokens", "token_quality",
    "world_model", "evaluation", "truth", "depth_annotator", "keypoint_annotator",
]  # fmt: skip
STAGES: list[StageName] = list(get_args(StageName))


@flow(
    name="roboscape", flow_run_name="{experiment}", persist_result=False, validate_parameters=True
)
def roboscape(
    experiment: registry.Name = "demo",
    source: str = "",
    stages: list[StageName] = STAGES,
    force: bool = False,
    overrides: dict[str, Any] = {},  # noqa: B006
    backend: Literal["ray", "serial"] | None = None,
    max_error_share: float = 0.01,
) -> str:
    """Runs an experiment's stages; what is complete is reused.

    Args:
        experiment: name of the configuration.
        source: root of the AGIBOT-World episodes; empty means the experiment's own.
        stages: make these; the others are reused if they are complete, and skipped if not.
        force: make the chosen stages again even if they are complete.
        overrides: single parameters, such as {"keypoints.grid": 16}.
        backend: `ray` (workers on the cluster) or `serial` (in this process).
        max_error_share: share of a stage's clips that may raise an error and be rejected for it.
    """
    settings = Settings()
    request = dict(
        experiment=experiment, source=source, stages=stages, force=force, overrides=overrides,
        backend=backend, max_error_share=max_error_share,
    )  # fmt: skip
    e = experiment_of(request, settings)
    if text := non_commercial_text(non_commercial(weights_of(e))):
        get_run_logger().warning("Non-commercial: %s", text)
    require_space(estimate(plan(e, settings.stores), stages, force), settings)
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
        close_leftovers(settings)
        register(context, [out for _, _, out in plan(e, settings.stores).planned.values()])
        return data_path(e, TaskRunner(context)).uri


def run_flow(request: dict[str, Any], name: str = "") -> None:
    """Runs the flow in this process. name: of the run in Prefect, by default the experiment's.

    Raises ServiceError if the Prefect server is gone before it begins; later, it goes on without.
    """
    chosen = roboscape.with_options(flow_run_name=name) if name else roboscape
    try:
        chosen(**request)
    except httpx.TransportError as error:
        raise ServiceError(
            f"the Prefect server does not answer any more ({error}), and no stage has begun. The "
            "same command starts it again, unless PREFECT_API_URL names it"
        ) from error


@dataclass
class TaskRunner:
    """Runs each stage as a Prefect task; the first failure ends the run."""

    context: RunContext

    def __call__(self, stage: Stage, **offered: StoreRef) -> StoreRef:
        inputs = declared_inputs(stage, offered)
        state = run_stage(stage, inputs, quote(self.context), return_state=True)
        if not state.is_completed():
            failure = state.result(raise_on_failure=False)
            if isinstance(failure, BaseException) and not isinstance(failure, Exception):
                raise failure  # Ctrl-C stays a KeyboardInterrupt
            if isinstance(failure, ServiceError):
                raise failure  # of no stage: Ray has died
            cause = failure if isinstance(failure, BaseException) else None
            raise StageFailed(str(failure)) from cause
        return state.result()  # type: ignore[return-value]


def register(context: RunContext, planned: list[StoreRef]) -> None:
    """Tells other workspaces which stores this run needs, and which it would make again.

    Waits, with a message, for a run that is in its way.
    """
    assert context.lease is not None, "a run holds a lease: see journaled"
    context.lease.acquire(
        uses={str(out) for out in planned},
        removes={str(out) for out in planned if context.force and context.chosen(out.stage)},
        wait=lambda message: print(message, file=sys.stderr, flush=True),
    )


def note_lost_server(journal: Journal, found: str) -> None:
    """For the user, and for `roboscape publish`."""
    journal.prefect_lost = found
    journal.save()
    print(
        f"The Prefect server at {get_current_settings().api.url} does not answer ({found}): this "
        "run goes on without it, and what it makes is kept. To publish its pages later: `roboscape "
        f"up`, then `roboscape publish {journal.id}`",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def journaled(context: RunContext) -> Iterator[None]:
    """Holds the run's lease, and records in the journal how it ends, also if it is interrupted."""
    journal = context.journal
    journal.prefect_run = flow_run.id or ""
    journal.drive_here()
    journal.save()
    run_may_end_alone()
    # The workspace's folder holds the folder of its journals
    home, what = str(journal.path.parent.parent), f"run {journal.id}"
    try:
        with (
            GATE.run(lambda found: note_lost_server(journal, found)),
            journal.heartbeat(),
            leases.hold(context.root, home=home, what=what, run=journal.id) as context.lease,
            sigterm_interrupts(),  # in place of Prefect's handler
        ):
            yield
    except KeyboardInterrupt:
        journal.close("crashed", f"interrupted by {interrupted_by()}")
        raise
    except BaseException:
        journal.close("failed")
        raise
    journal.close("completed")
