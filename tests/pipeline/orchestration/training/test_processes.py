"""Why a training's processes ended: which one is the cause, and whether to restart them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_disk import fill, small_disk

from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.training import ray_train
from pipeline.orchestration.training.errors import WorkerDied
from pipeline.orchestration.training.local_processes import FAILURES, raise_cause
from stages.world_model.torchrun import record_failure
from storage.errors import DiskFull

BROKEN = ValueError("clip 7 is broken")
LOST_PEER = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection reset by peer"
)


def ended(folder: Path, codes: tuple[int, ...], errors: dict[int, Exception]) -> None:
    """Raises the cause for these exit codes, and these errors recorded in this order."""
    for rank, error in errors.items():
        record_failure(folder / FAILURES / f"{rank}.json", error)
    processes: list[Any] = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    logs = [(folder / f"{rank}.log").open("w+") for rank in range(len(codes))]
    try:
        raise_cause(processes, logs, folder)
    finally:
        for log in logs:
            log.close()


@pytest.mark.parametrize(
    ("codes", "errors"),
    [
        ((1, 0), {0: BROKEN}),
        ((1, 1), {0: BROKEN, 1: LOST_PEER}),
        ((-6, 1), {1: BROKEN}),  # torch aborts a process whose peer has ended
        ((-6, 1, 1), {2: LOST_PEER, 1: BROKEN}),
    ],
)
def test_a_recorded_error_ends_the_stage_whatever_it_did_to_the_others(tmp_path, codes, errors):
    rank = next(rank for rank, error in errors.items() if error is BROKEN)
    with pytest.raises(StageFailed, match=f"worker {rank}: ValueError: clip 7 is broken"):
        ended(tmp_path, codes, errors)


@pytest.mark.parametrize(
    ("codes", "errors", "said"),
    [
        ((1, -9), {0: LOST_PEER}, "worker 1 was ended by SIGKILL"),
        # Perhaps broken because its peer was lost
        ((1, -9), {0: BROKEN}, "worker 1 was ended by SIGKILL"),
        ((1, -6), {0: LOST_PEER}, "worker 1 was ended by SIGABRT"),
        # Recorded, but not what ended it
        ((0, -6), {1: BROKEN}, "worker 1 was ended by SIGABRT"),
        ((-6, -11), {}, "worker 0 was ended by SIGABRT"),
        ((0, 3), {}, "worker 1 ended with code 3"),
    ],
)
def test_a_death_is_distinguished_from_what_it_did_to_the_others(tmp_path, codes, errors, said):
    with pytest.raises(WorkerDied, match=said):
        ended(tmp_path, codes, errors)


def test_a_full_disk_is_its_own_sentence_without_a_trace(tmp_path):
    full = DiskFull("the disk is full (No space left on device) while writing /x: 0.0 of 1 MB")
    with pytest.raises(DiskFull) as raised:
        ended(tmp_path, (1, 1), {0: full, 1: LOST_PEER})
    assert str(raised.value) == str(full)


def test_a_disk_too_full_to_record_the_error_is_the_error(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "0.log").touch()
        fill(disk)
        with pytest.raises(DiskFull, match=rf"while writing {disk}/failures: 0\.0 of 1 MB"):
            ended(disk, (1,), {})


def test_all_succeeded(tmp_path):
    ended(tmp_path, (0, 0), {})


@pytest.mark.parametrize(
    ("recorded", "lost", "raised", "said"),
    [
        ({0: BROKEN, 1: LOST_PEER}, (), StageFailed, "worker 0: ValueError: clip 7 is broken"),
        ({0: LOST_PEER}, (1,), WorkerDied, "health check failed"),
        ({}, (0, 1), WorkerDied, "health check failed"),
    ],
)
def test_a_lost_ray_worker_is_the_cause_whatever_the_others_recorded(
    tmp_path, recorded, lost, raised, said
):
    from ray.train import WorkerGroupError

    failures: dict[int, Exception] = {
        rank: RuntimeError("A worker health check failed.") for rank in lost
    }
    for rank, error in recorded.items():
        record_failure(tmp_path / f"{rank}.json", error)
        failures[rank] = ray_train.ErrorRecorded(str(error))
    with pytest.raises(raised, match=said):
        ray_train.raise_cause(WorkerGroupError("", failures), tmp_path)
