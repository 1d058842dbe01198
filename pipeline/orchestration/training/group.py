"""A training with several workers: on Ray Train, or as processes of this machine; begun again when
one of them dies.

The workers open the stores, save the training's state and seal the result by themselves (see
`stages.world_model.torchrun`). What is done here is to start them, to pass on how far they are, and
to tell a process that was killed, after which the training goes on from its last saved state, from
an error of its own, which would only come again.
"""

import json
from collections.abc import Callable
from typing import Literal

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.training.errors import WorkerDied
from pipeline.orchestration.training.retries import Deaths, working_folder
from stages.base import ParallelStage, Progress
from stages.training.working_files import PROGRESS_FILE
from stages.world_model.torchrun import TrainingSpec
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result

# (spec, called again and again while the workers run) -> returns when all are done
Launch = Callable[[TrainingSpec, Callable[[], None]], None]


def run_group(
    stage: ParallelStage,
    inputs: dict[str, StoreRef],
    out: StoreRef,
    progress: Progress,
    backend: Literal["ray", "serial"],
) -> dict[str, float]:
    """Trains until the result is sealed; returns its numbers.

    Raises StageFailed with the error of a worker, or when workers keep dying before a newer state
    is saved.
    """
    stage.check_workers(stage.workers)
    launch, spec = launcher(backend), TrainingSpec.of(stage, inputs, out)
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
                raise StageFailed(
                    f"stage '{stage.name}': all workers ended well, but {out.uri} is not complete"
                )
    return open_result(out).numbers


def launcher(backend: Literal["ray", "serial"]) -> Launch:
    if backend == "ray":
        from pipeline.orchestration.training.ray_train import launch
    else:
        from pipeline.orchestration.training.local_processes import launch
    return launch


def pass_on(out: StoreRef, progress: Progress) -> None:
    """Tells how far the workers are, if that can be seen from here."""
    try:
        done, total, note = json.loads((working_folder(out) / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return
    progress(done, total, note)
