"""One Prefect task for any stage: key, skip if complete, run what is missing, report."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from pipeline.lineage import artifacts, page
from pipeline.lineage.live_page import LivePage
from pipeline.lineage.reach import PrefectGone
from pipeline.orchestration import dataset_stage, ray_pool, shards
from pipeline.orchestration.clip_worker import Job
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.interrupts import interrupted_by
from pipeline.orchestration.journal import Journal, StageEntry
from pipeline.orchestration.progress import StageProgress
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.orchestration.shards import Outcome
from pipeline.orchestration.training.group import run_group
from pipeline.orchestration.training.retries import working_folder
from stages.base import ClipStage, DatasetStage, ParallelStage, Stage
from stages.drawing.pictures import png_bytes
from storage.disk_space import explain_disk_full
from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.leases import Lease
from storage.stores.records import StoreRef
from storage.stores.results import places_of
from storage.stores.rows import open_rows

NOTE_NUMBERS = 4  # of a result, shown in the stage's note


@dataclass(kw_only=True)
class Workers:
    """Who makes what is missing of a store.

    max_error_share: share of a stage's clips that may raise an error and be rejected, see
    `Outcome.accept_errors`. n_workers: of Ray; None: as many as it has room for. stall_s: seconds
    without a result after which a run on Ray is given up.
    """

    backend: Literal["ray", "serial"] = "serial"
    max_error_share: float = 0.01
    n_workers: int | None = None
    stall_s: float = 3600.0


@dataclass(kw_only=True)
class RunContext(Workers):
    """How a run works. Nothing here changes the output, so nothing here is part of a key.

    stages: names of the stages to make; None means all. The others are reused if they are complete.
    force: make the chosen stages again even if they are complete. lease: of this run, at the root.
    """

    root: str
    journal: Journal
    stages: tuple[str, ...] | None = None
    force: bool = False
    lease: Lease | None = None
    # Store uri -> id of its lineage page in this run
    artifacts: dict[str, str] = field(default_factory=dict)

    def chosen(self, stage: str) -> bool:
        return self.stages is None or stage in self.stages


@task(task_run_name="{stage.name}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: Stage, inputs: dict[str, StoreRef], context: RunContext) -> State[Any]:
    """Makes the stage's output unless it is complete; publishes its lineage page for this run.

    Call it with `quote(context)`: else Prefect would look inside the context, and draw an edge for
    each earlier result that it finds there.

    The state's name says what happened: Completed (made now), Cached (chosen, and already
    complete), Reused (not chosen, complete), Skipped (not chosen and not complete).
    """
    out = output_ref(stage, inputs, context.root)
    entry = context.journal.entry(stage.name)
    entry.uri, entry.started, entry.state = out.uri, time.time(), "running"
    entry.task_run = str(artifacts.here().task_run or "")
    context.journal.save()
    try:
        with explain_disk_full(*places_of(out), context.journal.path.parent):
            name, note = decide(stage, inputs, out, context)
    except BaseException as error:
        entry.seconds = time.time() - entry.started
        if isinstance(error, KeyboardInterrupt):
            entry.state, entry.note = "crashed", f"interrupted by {interrupted_by()}"
        else:
            entry.state, entry.note = "failed", str(error) or type(error).__name__
        context.journal.save_if_there_is_room()
        raise
    entry.state = {"Completed": "completed", "Skipped": "skipped"}.get(name, "cached")  # type: ignore[assignment]
    entry.seconds, entry.note = time.time() - entry.started, note
    if name == "Skipped":
        context.journal.save()
    else:
        publish_page(entry, out, name, context)
        check_made(stage, out, context)
    return Completed(name=name, message=note, data=out)


def publish_page(entry: StageEntry, out: StoreRef, state: str, context: RunContext) -> None:
    """Publishes the stage's lineage page, or notes that it is to be published later."""
    entry.unpublished = state
    context.journal.save()  # this process may be killed
    try:
        entry.artifact = page.publish(out, state, context.artifacts)
        entry.unpublished = ""
    except PrefectGone:  # the gate has said so
        pass
    except Exception as error:  # a failing server must not fail a stage that is complete
        print(f"{out.stage}: no lineage page: {error}", file=sys.stderr)
    context.journal.save()


def check_made(stage: Stage, out: StoreRef, context: RunContext) -> None:
    """Fails the stage if its store breaks a limit; its page, with the counts, is published by now.

    Raises StageFailed.
    """
    if not isinstance(stage, ClipStage):
        return
    try:
        stage.check_made(open_rows(out))
    except ValueError as error:
        entry = context.journal.entry(stage.name)
        entry.state, entry.note = "failed", str(error)
        context.journal.save()
        raise StageFailed(f"stage '{stage.name}': {error}") from error


def decide(
    stage: Stage, inputs: dict[str, StoreRef], out: StoreRef, context: RunContext
) -> tuple[str, str]:
    """Runs the stage if it is chosen and not complete; returns the state's name and a note."""
    complete = store.is_complete(out)
    if not context.chosen(stage.name):
        if complete:
            return "Reused", f"{out.key} is complete"
        return "Skipped", "not chosen and not complete"
    if complete and not context.force:
        return "Cached", f"{out.key} is complete; nothing to do"
    for role, ref in inputs.items():
        if not store.is_complete(ref):
            raise StageFailed(
                f"stage '{stage.name}' needs '{role}' ({ref.stage} {ref.key}), which is not "
                f"complete. Run it too: `roboscape rerun {ref.stage} --and-after`."
            )
    with made_by_this_run(out, context) as waited:
        if waited and store.is_complete(out):
            return "Cached", f"{out.key} is complete: another run made it meanwhile"
        if context.force:
            cleanup.delete(out)
        store.create(out, describe(stage, inputs, out))
        return "Completed", make(stage, inputs, out, context)


@contextmanager
def made_by_this_run(out: StoreRef, context: RunContext) -> Iterator[bool]:
    """Only one run at a time makes a store; gives whether another one had to be waited for."""
    assert context.lease is not None, "a run holds a lease: see flow_run.journaled"
    entry, waits = context.journal.entry(out.stage), list[str]()

    def wait(message: str) -> None:
        waits.append(message)
        entry.note = message  # for `roboscape status`
        context.journal.save()
        print(f"{out.stage}: {message}", file=sys.stderr, flush=True)

    with context.lease.making(out, wait):
        yield bool(waits)


def make(stage: Stage, inputs: dict[str, StoreRef], out: StoreRef, workers: Workers) -> str:
    """Makes what is missing on the chosen backend and seals the output; returns a note."""
    if isinstance(stage, DatasetStage):
        folder = working_folder(out)
        with StageProgress(stage.name, LivePage(stage, folder)) as progress:
            numbers = make_result(stage, inputs, out, workers, progress)
        shown = list(numbers.items())[:NOTE_NUMBERS]
        return ", ".join(f"{name} {value:.4g}" for name, value in shown)
    if not isinstance(stage, ClipStage):
        raise TypeError(f"{stage!r} is neither a ClipStage nor a DatasetStage (stages/base.py)")
    with StageProgress(stage.name) as progress:
        outcome = make_clips(stage, inputs, out, workers, progress)
    summary = store.seal(out)
    write_preview(stage, inputs, out)
    made, rejected = summary["made"], summary["rejected"]
    return f"{made} clips, {rejected} rejected, {outcome.committed} shards made now"


def make_result(
    stage: DatasetStage,
    inputs: dict[str, StoreRef],
    out: StoreRef,
    workers: Workers,
    progress: StageProgress,
) -> dict[str, float]:
    """Runs the stage with one worker or several; returns the numbers of its report."""
    if isinstance(stage, ParallelStage) and stage.workers > 1:
        return run_group(stage, inputs, out, progress, workers.backend)
    if workers.backend == "ray":
        return dataset_stage.run_dataset_ray(stage, inputs, out, progress)
    return dataset_stage.run_dataset(stage, inputs, out, progress)


def make_clips(
    stage: ClipStage,
    inputs: dict[str, StoreRef],
    out: StoreRef,
    workers: Workers,
    progress: StageProgress,
) -> Outcome:
    job = Job(stage=stage, inputs=inputs, out=out)
    missing = store.missing_shards(out)
    n_clips = store.read_manifest(out).n_clips or 0
    allowed = workers.max_error_share * n_clips
    if workers.backend == "ray":
        outcome = ray_pool.run_ray(
            job, missing, progress, workers.n_workers, workers.stall_s, allowed
        )
    else:
        outcome = shards.run_serial(job, missing, progress, allowed_errors=allowed)
    outcome.accept_errors(job, n_clips, workers.max_error_share)
    return outcome


def write_preview(stage: ClipStage, inputs: Mapping[str, StoreRef], out: StoreRef) -> None:
    """Writes the lineage page's picture of a few clips; an error here must not fail the stage."""
    try:
        own = open_rows(out)
        rows = {role: open_rows(inputs[role]) for role, names in stage.inputs.items() if names}
        made = np.flatnonzero(own.ok)
        n_picks = min(stage.preview_clips, len(made))
        picks = made[np.linspace(0, len(made) - 1, n_picks).round().astype(int)]
        picture = stage.preview(own, rows, picks.tolist()) if len(picks) else None
        if picture is not None:
            open_files(out.uri).write(page.PREVIEW, [png_bytes(picture)])
    except Exception as error:
        print(f"{stage.name}: no preview picture: {error}", file=sys.stderr)
