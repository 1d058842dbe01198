"""The workers of a training on Ray Train, on this machine or a cluster."""

import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.orchestration import ray_health
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.ray_health import RayDied
from pipeline.orchestration.ray_pool import worker_capacity
from pipeline.orchestration.training.errors import POLL_S, WorkerDied, raise_recorded
from pipeline.orchestration.training.retries import working_folder
from stages.training.working_files import STOP_FILE
from stages.world_model.torchrun import TrainingSpec

STOP_S = 60.0  # for workers to end their step and see the stop file
RUNS = "ray-train"  # folder of Ray Train's own files and of recorded errors; deleted at the end


class ErrorRecorded(RuntimeError):
    """A worker failed with an error and recorded it: Ray's own errors mean a lost worker."""


def launch(spec: TrainingSpec, watch: Callable[[], None]) -> None:
    """Runs the training on `spec.stage.workers` Ray workers to its end.

    Raises WorkerDied if one was lost, StageFailed with the error that one recorded or if the
    cluster has too little room, RayDied if this machine's Ray has died.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    stage = spec.stage
    fit = worker_capacity(stage)
    if fit < stage.workers:
        raise StageFailed(
            f"stage '{stage.name}': the Ray cluster has room for {fit} workers of "
            f"{stage.resources}, {stage.workers} are asked for: fewer workers "
            f"(--set {stage.name}.workers={fit}) train the same, only slower"
        )
    folder = working_folder(spec.out).parent / RUNS
    folder.mkdir(parents=True, exist_ok=True)
    resources = {"CPU": stage.resources.cpus, "memory": stage.resources.memory_gb * 1e9}
    gpus = {"GPU": stage.resources.gpus} if stage.resources.gpus else {}
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"spec": spec.to_json(), "failures": str(folder)},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=stage.workers, use_gpu=bool(gpus), resources_per_worker=resources | gpus
        ),
        # Ray Train does not train under the name of a finished run, so each start has a new one.
        # The training resumes from its own saved state, and group.py does the restarts.
        run_config=ray.train.RunConfig(
            name=f"{spec.out.key}-{uuid.uuid4().hex[:8]}", storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )  # fmt: skip
    stop = working_folder(spec.out) / STOP_FILE
    stop.unlink(missing_ok=True)
    try:
        fit_watched(trainer, watch, stop)
    except ray.train.WorkerGroupError as error:
        raise_cause(error, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker, after it has made the process group."""
    from ray.train import get_context

    from model.training.parallel import join
    from stages.world_model.torchrun import record_failure, train_together

    rank = get_context().get_world_rank()
    try:
        spec = TrainingSpec.from_json(config["spec"])
        if not spec.stage.resources.gpus:  # Ray has reserved none, though the machine may have some
            spec = replace(spec, stage=replace(spec.stage, device="cpu"))
        train_together(spec, join())
    except Exception as error:
        record_failure(Path(config["failures"]) / f"{rank}.json", error)
        raise ErrorRecorded(f"{type(error).__name__}: {error}") from error


def fit_watched(trainer: Any, watch: Callable[[], None], stop: Path) -> None:
    """Runs `trainer.fit()` in a thread and calls `watch` meanwhile.

    On Ctrl-C the file `stop` makes the workers end; otherwise they would hold the store and GPUs.
    If Ray has died, they have ended, or are killed with what is left of it.
    """
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            watch()
            ray_health.check()
            thread.join(POLL_S)
    except RayDied:
        raise
    except BaseException:
        if stop.parent.exists():
            stop.touch()
        thread.join(STOP_S)
        raise
    if failure:
        ray_health.check()
        raise failure[0]


def raise_cause(error: Any, folder: Path) -> None:
    """Raises WorkerDied or StageFailed, whichever ended the training.

    A lost worker makes the others fail too, with errors that they record; so those are the cause
    only if no worker was lost.
    """
    failures = error.worker_failures.items()
    lost = [
        f"worker {rank} was lost: {failure}"
        for rank, failure in failures
        if not isinstance(failure, ErrorRecorded)
    ]
    if not lost:
        raise_recorded(folder)
    raise WorkerDied(lost[0] if lost else str(error)) from error
