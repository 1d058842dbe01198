"""Saved states of several workers: any number of workers resumes from them, shard by shard."""

import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from model.training.loop import TrainState
from model.training.parallel import ALONE, Workers
from model.training.snapshots import DAMAGED, Snapshots, saved_states
from model.training.state_files import DamagedState

WHOLE = torch.arange(15.0).reshape(5, 3)  # rows that no number of workers here divides
SCALAR = torch.tensor(7.0)


def state(workers: Workers, whole: torch.Tensor, step: int = 4) -> TrainState:
    """`sharded` by rows among the workers, as with FSDP; the others on all, as with DDP."""
    sharded = whole.clone()
    if workers.n > 1:
        mesh = init_device_mesh("cpu", (workers.n,))
        sharded = distribute_tensor(sharded, mesh, [Shard(0)])
    one = torch.ones_like(whole[0, 0])
    return TrainState(
        step=step,
        model={"sharded": sharded, "same": whole.clone(), "n": SCALAR * one * whole[0, 1]},
        optimizer={"0": {"step": SCALAR.clone()}},
    )


def save(workers: Workers, folder: Path, step: int) -> None:
    snapshots = Snapshots(folder, workers=workers)
    snapshots.save(state(workers, WHOLE, step), next_batch=step)
    snapshots.close()


def resume(workers: Workers, folder: Path, step: int) -> None:
    with warnings.catch_warnings(record=True):
        snapshot = Snapshots(folder, workers=workers).latest()
    assert snapshot is not None
    live = state(workers, torch.zeros_like(WHOLE))
    assert snapshot.fill(live) == step
    sharded = live.model["sharded"]
    whole = sharded.full_tensor() if workers.n > 1 else sharded  # type: ignore[attr-defined]
    assert torch.equal(whole, WHOLE) and torch.equal(live.model["same"], WHOLE)
    assert live.model["n"] == SCALAR


def refuse(workers: Workers, folder: Path, step: int) -> None:
    """All workers see the damage, also those whose files are whole."""
    with pytest.raises(DamagedState, match="delete the folder"):
        Snapshots(folder, workers=workers).latest()


Work = Callable[[Workers, Path, int], None]


def together(n: int, work: Work, folder: Path, step: int = 4) -> None:
    """Runs `work` on n workers, forked: importing PyTorch again takes seconds."""
    meeting = folder.parent / f"meeting-{os.urandom(4).hex()}"

    def worker(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=n)
        work(Workers(rank, n), folder, step)
        dist.destroy_process_group()

    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=worker, args=(rank,)) for rank in range(n)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * n


@pytest.mark.parametrize("saved_by", [1, 2, 3])
def test_any_number_of_workers_resumes(tmp_path, saved_by):
    folder = tmp_path / "states"
    together(saved_by, save, folder) if saved_by > 1 else save(ALONE, folder, 4)
    for n in (2, 3):
        together(n, resume, folder)
    resume(ALONE, folder, 4)


def test_all_workers_fall_back_to_the_same_state(tmp_path):
    folder = tmp_path / "states"
    together(2, save, folder)
    shutil.copytree(folder / "step-00000004", folder / "step-00000006")
    _, newest = saved_states(folder)
    (newest.folder / "worker-00001.safetensors").write_bytes(b"")
    together(2, resume, folder)
    assert (folder / f"step-00000006{DAMAGED}").is_dir()
    (folder / "step-00000004" / "worker-00000.safetensors").unlink()
    together(2, refuse, folder)
