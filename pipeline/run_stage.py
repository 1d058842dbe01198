"""One Prefect task for any stage: key, skip if complete, run what is missing, report."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from pipeline import executor, report
from pipeline.deaths import working_folder
from pipeline.executor import Outcome, StageFailed
from pipeline.journal import Journal
from pipeline.live_page import live_page
from pipeline.progress import StageProgress
from pipeline.provenance import (
    NON_COMMERCIAL,
    code_version,
    non_commercial,
    non_commercial_behind,
    run_with,
    weights_of,
)
from pipeline.training_group import run_group
from pipeline.worker import Job
from stages.base import ClipStage
from stages.pictures import png_bytes
from storage import cleanup, store
from storage.files import open_files
from storage.key import content_key, parameters
from storage.rows import open_rows
from storage.store import Manifest, StoreRef

PREVIEW_CLIPS = 3  # on a stage's lineage page; a stage's own `preview_clips` goes before
NOTE_NUMBERS = 4  # of a result, in the line that says what a stage did
# A ClipStage or a DatasetStage. Pyright does not take a dataclass's ClassVar for a protocol's property.
AnyStage = Any


@dataclass(kw_only=True)
class RunContext:
    """How a run works. Nothing here changes what is made, so nothing here is part of a key.

    stages: names of the stages to make; None means all. The others are reused if they are complete.
    force: make the chosen stages again even where they are complete.
    max_error_share: share of a stage's clips that may raise an error and be set aside, see `Outcome.settle`.
    """

    root: str
    journal: Journal
    backend: Literal["ray", "serial"] = "serial"
    stages: tuple[str, ...] | None = None
    force: bool = False
    max_error_share: float = 0.01
    n_workers: int | None = None
    stall_s: float = 3600.0
    artifacts: dict[str, str] = field(default_factory=dict)  # store uri -> id of its lineage page in this run

    def chosen(self, stage: str) -> bool:
        return self.stages is None or stage in self.stages


def recipe(stage: AnyStage, inputs: Mapping[str, StoreRef]) -> dict[str, Any]:
    """What the key of the stage's output names."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "parameters": parameters(stage),
        "inputs": {role: ref.key for role, ref in inputs.items()},
    }


def output_ref(stage: AnyStage, inputs: Mapping[str, StoreRef], root: str) -> StoreRef:
    return StoreRef.at(root, stage.name, content_key(recipe(stage, inputs)))


def taken(stage: AnyStage, offered: Mapping[str, StoreRef]) -> dict[str, StoreRef]:
    """Of what the flow offers, the inputs that the stage declares: an annotator may need fewer than its stage's others.

    Raises ValueError if a declared input is not offered.
    """
    missing = sorted(set(stage.inputs) - set(offered))
    if missing:
        raise ValueError(f"stage '{stage.name}' declares inputs {missing}; the flow offers only {sorted(offered)}")
    return {role: offered[role] for role in stage.inputs}


@task(task_run_name="{stage.name}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: AnyStage, inputs: dict[str, StoreRef], context: RunContext) -> State[Any]:
    """Makes the stage's output, or finds it made; either way its lineage page belongs to this run.

    Call it with `quote(context)`: the context names earlier results, and Prefect, which otherwise looks inside its
    dataclass, would draw an edge for each one that it finds there.

    The state's name says what happened: Completed (made now), Cached (chosen, and already complete), Reused (not
    chosen, complete), Skipped (not chosen and not complete).
    """
    out = output_ref(stage, inputs, context.root)
    entry = context.journal.entry(stage.name)
    entry.uri, entry.started, entry.state = out.uri, time.time(), "running"
    context.journal.save()
    try:
        name, note = decide(stage, inputs, out, context)
    except BaseException as error:
        entry.state, entry.seconds = "failed", time.time() - entry.started
        entry.note = str(error) or type(error).__name__
        context.journal.save()
        raise
    entry.state = {"Completed": "completed", "Skipped": "skipped"}.get(name, "cached")  # type: ignore[assignment]
    entry.seconds, entry.note = time.time() - entry.started, note
    if name != "Skipped":
        try:
            entry.artifact = report.publish(out, name, context.artifacts)
        except Exception as error:  # the data are made; a server that does not answer must not undo that
            entry.note += f"; no lineage page: {error}"
            print(f"{stage.name}: no lineage page: {error}", file=sys.stderr)
    context.journal.save()
    return Completed(name=name, message=note, data=out)


def decide(stage: AnyStage, inputs: dict[str, StoreRef], out: StoreRef, context: RunContext) -> tuple[str, str]:
    """Runs the stage if it is chosen and not complete. Returns the state's name and a line for people."""
    complete = store.is_complete(out)
    if not context.chosen(stage.name):
        return ("Reused", f"{out.key} is complete") if complete else ("Skipped", "not chosen and not complete")
    if complete and not context.force:
        return "Cached", f"{out.key} is complete; nothing to do"
    for role, ref in inputs.items():
        if not store.is_complete(ref):
            raise StageFailed(
                f"stage '{stage.name}' needs '{role}' ({ref.stage} {ref.key}), which is not complete. "
                f"Run it too: `roboscape rerun {ref.stage} --and-after`."
            )
    if context.force:
        cleanup.delete(out)
    store.create(out, describe(stage, inputs, out))
    return "Completed", make(stage, inputs, out, context)


def describe(stage: AnyStage, inputs: dict[str, StoreRef], out: StoreRef) -> Manifest:
    """The manifest: parameters, inputs, code and weights, written before any work."""
    upstream = {role: store.read_manifest(ref) for role, ref in inputs.items()}
    index_uri = next(
        (m.index_uri or inputs[r].uri for r, m in upstream.items() if m.index_uri or m.kind == "index"), None
    )
    specs = tuple(getattr(stage, "outputs", ()))
    n_clips = open_rows(StoreRef(index_uri)).n if specs and index_uri else None
    weights = weights_of(stage)
    forbidden = non_commercial(weights) | non_commercial_behind(upstream.values())
    limits = {NON_COMMERCIAL: forbidden} if forbidden else {}
    return Manifest(
        stage=stage.name,
        key=out.key,
        kind="clips" if specs else getattr(stage, "kind", "result"),
        version=stage.version,
        parameters=parameters(stage),
        inputs={role: ref.uri for role, ref in inputs.items()},
        specs=specs,
        n_clips=n_clips,
        clips_per_shard=stage.resources.clips_per_shard if specs else None,
        index_uri=index_uri,
        code=code_version(),
        weights=weights,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        attributes={**getattr(stage, "attributes", {}), **run_with(stage), **limits},
    )


def make(stage: AnyStage, inputs: dict[str, StoreRef], out: StoreRef, context: RunContext) -> str:
    """Runs what is missing on the chosen backend and seals the output."""
    with StageProgress(stage.name, live_page(stage, working_folder(out))) as progress:
        if not hasattr(stage, "outputs"):
            if getattr(stage, "workers", 1) > 1:
                numbers = run_group(stage, inputs, out, progress, context.backend)
            else:
                run = executor.run_dataset_ray if context.backend == "ray" else executor.run_dataset
                numbers = run(stage, inputs, out, progress)  # type: ignore[arg-type]
            return ", ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:NOTE_NUMBERS])
        outcome = make_clips(stage, inputs, out, context, progress)  # type: ignore[arg-type]
        summary = store.seal(out)
        write_preview(stage, inputs, out)
    return f"{summary['made']} clips, {summary['rejected']} rejected, {outcome.committed} shards made now"


def make_clips(
    stage: ClipStage, inputs: dict[str, StoreRef], out: StoreRef, context: RunContext, progress: StageProgress
) -> Outcome:
    job = Job(stage=stage, inputs=inputs, out=out)
    shards = store.missing_shards(out)
    n_clips = store.read_manifest(out).n_clips or 0
    allowed = context.max_error_share * n_clips
    if context.backend == "ray":
        outcome = executor.run_ray(job, shards, progress, context.n_workers, context.stall_s, allowed)
    else:
        outcome = executor.run_serial(job, shards, progress, allowed_errors=allowed)
    outcome.settle(job, n_clips, context.max_error_share)
    return outcome


def write_preview(stage: Any, inputs: Mapping[str, StoreRef], out: StoreRef) -> None:
    """A picture of a few clips for the lineage page. It decides nothing, so it must not fail a stage that is done."""
    if not hasattr(stage, "preview"):
        return
    try:
        own = open_rows(out)
        rows = {role: open_rows(inputs[role]) for role, names in stage.inputs.items() if names}
        made = np.flatnonzero(own.ok)
        n_picks = min(getattr(stage, "preview_clips", PREVIEW_CLIPS), len(made))
        picks = made[np.linspace(0, len(made) - 1, n_picks).round().astype(int)]
        if len(picks):
            picture = stage.preview(own, rows, picks.tolist())
            open_files(out.uri).write(report.PREVIEW, [png_bytes(picture)])
    except Exception as error:
        print(f"{stage.name}: no preview picture: {error}", file=sys.stderr)
