"""A training with several workers: on Ray Train, or as processes of this machine; begun again when one of them dies.

The workers open the stores, save the training's state and seal the result by themselves (`stages.train_distributed`).
What is done here is to start them, to pass on how far they are, and to tell a process that was killed, after which the
training goes on from its last saved state, from an error of its own, which would only come again.
"""

import json
import re
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Literal

from pipeline.deaths import Deaths, working_folder
from pipeline.executor import StageFailed
from stages.base import Progress
from stages.train_distributed import TrainingSpec
from stages.working_files import PROGRESS_FILE
from storage import store
from storage.results import open_result
from storage.store import StoreRef

POLL_S = 1.0
ABSENCE = re.compile(r"gloo|nccl", re.IGNORECASE)  # named by the errors of those who wait for a worker that is gone

# (spec, called again and again while the workers run) -> returns when all are done
Launch = Callable[[TrainingSpec, Callable[[], None]], None]


class WorkerDied(RuntimeError):
    """A worker ended without an error of its own: killed, out of memory, its machine lost."""


def run_group(
    stage: Any, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress, backend: Literal["ray", "serial"]
) -> dict[str, float]:
    """Trains until the result is sealed; returns its numbers.

    Raises StageFailed with the error of a worker, or when workers keep dying before a newer state is saved.
    """
    stage.check_workers(stage.workers)
    launch, spec = launcher(backend), TrainingSpec(stage=stage, inputs=inputs, out=out)
    deaths = Deaths(out)
    while not store.is_complete(out):
        try:
            launch(spec, lambda: pass_on(out, progress))
        except WorkerDied as death:
            if not deaths.one_more():
                raise StageFailed(
                    f"stage '{stage.name}': its workers were {deaths}. Too little memory (each has {stage.resources}), "
                    f"or a broken library or driver? The last death: {death}"
                ) from death
        else:
            if not store.is_complete(out):
                raise StageFailed(f"stage '{stage.name}': all workers ended well, but {out.uri} is not complete")
    return open_result(out).numbers


def write_spec(request: dict[str, Any], path: Path) -> TrainingSpec:
    """For `torchrun -m stages.train_distributed`: the world model's training of an experiment, its store created.

    Raises LookupError if the experiment trains none, StageFailed if the stages before it are not complete.
    """
    from pipeline.planning import planned
    from pipeline.run_stage import describe

    stages = planned(request).planned
    if "world_model" not in stages:
        raise LookupError(f"experiment '{request['experiment']}' trains no world model; it has {', '.join(stages)}")
    stage, inputs, out = stages["world_model"]
    missing = [str(ref) for ref in inputs.values() if not store.is_complete(ref)]
    if missing:
        raise StageFailed(f"the training needs {', '.join(missing)}, not complete: run the stages before it first")
    store.create(out, describe(stage, inputs, out))
    spec = TrainingSpec(stage=stage, inputs=inputs, out=out)
    path.write_text(spec.to_json())
    return spec


def launcher(backend: Literal["ray", "serial"]) -> Launch:
    if backend == "ray":
        from pipeline.ray_training import launch
    else:
        from pipeline.processes import launch
    return launch


def pass_on(out: StoreRef, progress: Progress) -> None:
    """Tells how far the workers are, if that can be seen from here."""
    try:
        done, total, note = json.loads((working_folder(out) / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return
    progress(done, total, note)


def raise_recorded(failures: Path, own_of: Container[int] | None = None) -> None:
    """Raises the first error that a worker noted there, if one did. (Later ones come from its absence.)

    With `own_of`, only one of these workers', and none that tells of another worker's absence.
    """
    notes = [(json.loads(path.read_text()), path.stem) for path in failures.glob("*.json")]
    if own_of is not None:
        notes = [(note, rank) for note, rank in notes if int(rank) in own_of and not ABSENCE.search(note["message"])]
    if notes:
        note, rank = min(notes, key=lambda pair: pair[0]["at"])
        raise StageFailed(f"worker {rank}: {note['type']}: {note['message']}\n{note['trace']}")


def every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """`call`, but at most once in so many seconds."""
    last = 0.0

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
