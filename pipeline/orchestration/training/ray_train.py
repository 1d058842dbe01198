"""The workers of a training on Ray Train: on this machine's Ray, or spread over a cluster."""

import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.ray_pool import room_for
from pipeline.orchestration.training.errors import POLL_S, WorkerDied, raise_recorded
from pipeline.orchestration.training.retries import working_folder
from stages.training.working_files import STOP_FILE
from stages.world_model.torchrun import TrainingSpec

STOP_S = 60.0  # for workers to end their step and see that they are told to stop
# Folder of Ray Train's own records, in the store; deleted when the workers have ended
RUNS = "ray-train"


def launch(spec: TrainingSpec, watch: Callable[[], None]) -> None:
    """Runs the training on `spec.stage.workers` Ray workers to its end.

    Raises WorkerDied if one was lost, StageFailed with a worker's own error or if the cluster has
    too little room.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    stage = spec.stage
    fit = room_for(stage)
    if fit < stage.workers:
        raise StageFailed(
            f"stage '{stage.name}': the Ray cluster has room for {fit} workers of {stage.resources}, {stage.workers} "
            f"are asked for: fewer workers (--set {stage.name}.workers={fit}) train the same, only slower"
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
        # A run of a name that has finished before trains nothing, so each start has a name of its
        # own; what goes on from start to start is the training's own saved state. Retries are ours,
        # too: only after a death.
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
        judge(error, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def train_on_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker, with the process group made."""
    from model.training.parallel import join
    from stages.world_model.torchrun import record_failure, train_together

    workers, spec = join(), TrainingSpec.from_json(config["spec"])
    if not spec.stage.resources.gpus:  # Ray has reserved none, though the machine may have some
        spec = replace(spec, stage=replace(spec.stage, device="cpu"))
    try:
        train_together(spec, workers)
    except Exception as error:
        record_failure(Path(config["failures"]) / f"{workers.rank}.json", error)
        raise


def fit_watched(trainer: Any, watch: Callable[[], None], stop: Path) -> None:
    """`trainer.fit()`, in a thread, so that progress can be told meanwhile.

    Where that ends early (Ctrl-C), the file `stop` tells the workers to end, too: they would hold
    the store and GPUs.
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
            thread.join(POLL_S)
    except BaseException:
        if stop.parent.exists():
            stop.touch()
        thread.join(STOP_S)
        raise
    if failure:
        raise failure[0]


def judge(error: Any, folder: Path) -> None:
    """Tells a death from an error of the training's own. (One worker's death makes the others fail,
    with errors that they note.)
    """
    from ray.exceptions import RayError, RayTaskError
    from ray.train.v2._internal.exceptions import (
        WorkerHealthCheckFailedError,
        WorkerHealthCheckTimeoutError,
    )

    lost = (RayError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
    died = [
        e
        for e in error.worker_failures.values()
        if isinstance(e, lost) and not isinstance(e, RayTaskError)
    ]
    if not died:
        raise_recorded(folder)
    raise WorkerDied(str(died[0] if died else error)) from error
