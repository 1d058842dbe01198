"""Runs a DatasetStage, in this process or on a Ray worker with the stage's resources."""

from typing import Any

from pipeline.orchestration.clip_worker import limit_threads
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.ray_pool import POLL_S, actor_options, room_for
from pipeline.orchestration.training.retries import Deaths
from stages.base import DatasetStage, Progress
from storage.stores.records import StoreRef
from storage.stores.results import open_result, open_writer
from storage.stores.rows import open_rows


class DatasetWorker:
    """A DatasetStage in its own process; `where` answers while `run` works."""

    def __init__(self, stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef):
        self.stage, self.inputs, self.out = stage, inputs, out
        self.state = (0, 0, "")

    def note(self, done: int, total: int, note: str = "") -> None:
        self.state = (done, total, note)

    def where(self) -> tuple[int, int, str]:
        return self.state

    def run(self) -> dict[str, float]:
        return run_dataset(self.stage, self.inputs, self.out, self.note)


def run_dataset(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """A DatasetStage in this process. Its working folder is kept when it fails, for the next
    attempt.
    """
    limit_threads(stage.resources.cpus)
    rows = {role: open_rows(inputs[role]) for role, names in stage.inputs.items() if names}
    results = {role: open_result(inputs[role]) for role, names in stage.inputs.items() if not names}
    with open_writer(out) as writer:
        numbers = stage.run(rows, results, writer, progress)
        writer.finish(numbers)
    return numbers


def run_dataset_ray(
    stage: DatasetStage, inputs: dict[str, StoreRef], out: StoreRef, progress: Progress
) -> dict[str, float]:
    """The same on a Ray worker with the stage's resources (a GPU node, say), asked for its progress
    every second.

    A worker that dies is replaced, and goes on from the working folder. Raises StageFailed if that
    does not help.
    """
    import ray
    from ray.exceptions import RayActorError

    room_for(stage)
    deaths = Deaths(out)
    while True:
        options: dict[str, Any] = {**actor_options(stage.resources), "max_concurrency": 2}
        worker: Any = ray.remote(**options)(DatasetWorker).remote(stage, inputs, out)
        try:
            return watched(worker, progress)
        except RayActorError as error:
            if "creation task" in str(error):
                raise StageFailed(
                    f"stage '{stage.name}': its worker could not start.\n{error}"
                ) from error
            if not deaths.one_more():
                raise StageFailed(
                    f"stage '{stage.name}': its worker was {deaths}. Too little memory (it has {stage.resources}), or "
                    f"a broken library or driver? The last death: {error}"
                ) from error
        finally:
            ray.kill(worker)


def watched(worker: Any, progress: Progress) -> dict[str, float]:
    """The result of a DatasetWorker, its progress passed on while it works."""
    import ray
    from ray.exceptions import GetTimeoutError

    result = worker.run.remote()
    while not ray.wait([result], timeout=POLL_S)[0]:
        try:
            done, total, note = ray.get(worker.where.remote(), timeout=10 * POLL_S)
        except GetTimeoutError:
            continue  # not started yet, or busy in one long call
        if total:
            progress(done, total, note)
    return ray.get(result)
