"""A training with several workers, on Ray Train or as processes of this machine.

The workers open the stores, save the training's state and seal the result by themselves (see
`stages.world_model.torchrun`). This module starts them and reports their progress. If one is
killed, it starts them again, and the training resumes from its last saved state; an error that a
worker recorded would only occur again, so it ends the stage.
"""

import json
from collections.abc import Callable
from typing import Literal

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.training.errors import WorkerDied
from pipeline.orchestration.training.retries import RestartBudget, working_folder
from stages.base import ParallelStage, Progress
from stages.training.working_files import PROGRESS_FILE
from stages.world_model.torchrun import TrainingSpec
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result

# (spec, a function to call at intervals while the workers run) -> returns when all are done
Launch = Callable[[TrainingSpec, Callable[[], None]], None]


def run_group(
    stage: ParallelStage,
    inputs: dict[str, StoreRef],
    out: StoreRef,
    progress: Progress,
    backend: Literal["ray", "serial"],
) -> dict[str, float]:
    """Trains until the result is sealed; returns its numbers.

    Raises StageFailed with the error that a worker recorded, or if the restart budget is spent.
    """
    stage.check_workers(stage.workers)
    launch, spec = launcher(backend), TrainingSpec.of(stage, inputs, out)
    budget = RestartBudget(out)
    while not store.is_complete(out):
        try:
            launch(spec, lambda: report_progress(out, progress))
        except WorkerDied as death:
            if not budget.spend():
                raise StageFailed(
                    f"stage '{stage.name}': its workers were {budget}. Too little memory (each has "
                    f"{stage.resources}), or a broken library or driver? The last error: {death}"
                ) from death
            budget.say(death)
        else:
            if not store.is_complete(out):
                raise StageFailed(
                    f"stage '{stage.name}': all workers succeeded, but {out.uri} is not complete"
                )
    return open_result(out).numbers


def launcher(backend: Literal["ray", "serial"]) -> Launch:
    if backend == "ray":
        from pipeline.orchestration.training.ray_train import launch
    else:
        from pipeline.orchestration.training.local_processes import launch
    return launch


def report_progress(out: StoreRef, progress: Progress) -> None:
    """Reports the progress that the workers wrote, if this machine sees it."""
    try:
        done, total, note = json.loads((working_folder(out) / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return
    progress(done, total, note)
