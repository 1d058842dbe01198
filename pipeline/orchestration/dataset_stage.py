"""Runs a DatasetStage, in this process or on a Ray worker with the stage's resources."""

from typing import Any

from pipeline.orchestration import ray_health
from pipeline.orchestration.clip_worker import limit_threads
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.ray_pool import (
    POLL_S,
    actor_options,
    raise_if_not_started,
    worker_capacity,
)
from pipeline.orchestration.training.retries import RestartBudget
from stages.base import DatasetStage, Progress
from storage.disk_space import explain_disk_full, raise_if_disk_full
from storage.stores.records import StoreRef
from storage.stores.results import open_result, open_writer, places_of
from storage.stores.rows import open_rows


class DatasetWorker:
    """A DatasetStage in a process of its own; `progress` can be called while `run` works."""

    def __init__(self, stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef):
        self.stage, self.inputs, self.out = stage, inputs, out
        self.state = (0, 0, "")

    def report(self, done: int, total: int, note: str = "") -> None:
        self.state = (done, total, note)

    def progress(self) -> tuple[int, int, str]:
        return self.state

    def run(self) -> dict[str, float]:
        return run_dataset(self.stage, self.inputs, self.out, self.report)


def run_dataset(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """Runs the stage in this process. If it fails, its working folder stays for a retry."""
    limit_threads(stage.resources.cpus)
    rows = {role: open_rows(inputs[role]) for role, names in stage.inputs.items() if names}
    results = {role: open_result(inputs[role]) for role, names in stage.inputs.items() if not names}
    with explain_disk_full(*places_of(out)), open_writer(out) as writer:
        numbers = stage.run(rows, results, writer, progress)
        writer.finish(numbers)
    return numbers


def run_dataset_ray(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """Runs the stage on a Ray worker with the stage's resources, polled for its progress.

    A worker that dies is replaced and resumes from the working folder. Raises StageFailed if the
    restart budget is spent, RayDied if this machine's Ray has died.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    worker_capacity(stage)
    budget = RestartBudget(out)
    while True:
        options: dict[str, Any] = {**actor_options(stage.resources), "max_concurrency": 2}
        worker: Any = ray.remote(**options)(DatasetWorker).remote(stage, inputs, out)
        try:
            return watched(worker, progress)
        except RayTaskError as error:
            raise_if_disk_full(error, *places_of(out))
            raise
        except RayActorError as error:
            raise_if_not_started(stage, error)
            if not budget.spend():
                raise StageFailed(
                    f"stage '{stage.name}': its worker was {budget}. Too little memory (it has "
                    f"{stage.resources}), or a broken library or driver? The last error: {error}"
                ) from error
            budget.say(error)
        finally:
            ray.kill(worker)


def watched(worker: Any, progress: Progress) -> dict[str, float]:
    """The numbers of a DatasetWorker's result; reports its progress while it works."""
    import ray
    from ray.exceptions import GetTimeoutError

    result = worker.run.remote()
    while not ray.wait([result], timeout=POLL_S)[0]:
        ray_health.check()
        try:
            done, total, note = ray_health.get(worker.progress.remote(), 10 * POLL_S)
        except GetTimeoutError:
            continue  # not started yet, or busy in one long call
        if total:
            progress(done, total, note)
    return ray_health.get(result, POLL_S)
