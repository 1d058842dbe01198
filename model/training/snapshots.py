"""Saved states of a running training, from which it resumes.

    <folder>/step-00000400/             one state: PyTorch's distributed checkpoint of all ranks
        about.json                      step, next batch, number of workers, loss on held-out clips
    <folder>/step-00000450.partial/     not complete: being written, or the process died meanwhile

A state is copied when it is saved, and written while the training continues; its folder is renamed
when all of it is on disk. Any number of workers can resume from it, with DDP or FSDP. The newest
few are kept, and the best.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from model.training.checkpoint import write_whole
from model.training.loop import TrainState, check_alike, tensors_of
from model.training.parallel import ALONE, Workers

ABOUT, PARTIAL, GONE = "about.json", ".partial", ".gone"
NAME = re.compile(r"step-\d+")

# PyTorch warns whenever a single process saves or reads a state; here that is intended
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True)
class Snapshot:
    """One complete saved state."""

    folder: Path
    workers: Workers = ALONE

    @property
    def about(self) -> dict[str, Any]:
        return json.loads((self.folder / ABOUT).read_text())

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step-"))

    def fill(self, live: TrainState) -> int:
        """Reads the state into the tensors of a running training: this rank's shards of it."""
        saved = self._names()
        check_alike(self.step, {name.partition(".")[0] for name in saved}, live.parts())
        wanted = dict(tensors_of(live.parts()))
        if "rng.cuda" not in saved:  # the state was saved on a CPU
            wanted.pop("rng.cuda", None)
        self._read(wanted, self.workers)
        return self.step

    def load_weights(self, module: nn.Module) -> None:
        """Sets a plain module to the averaged weights, or to the weights if no average is kept.

        Not collective.
        """
        averaged = any(name.startswith("ema.") for name in self._names())
        self._read(dict(tensors_of({"ema" if averaged else "model": module.state_dict()})), ALONE)

    def _names(self) -> set[str]:
        return set(FileSystemReader(self.folder).read_metadata().state_dict_metadata)

    def _read(self, tensors: dict[str, Tensor], workers: Workers) -> None:
        load(tensors, checkpoint_id=self.folder, no_dist=workers.n == 1)


class Snapshots:
    """The states of one training, in a folder that all ranks see.

    Methods are collective: every rank must call them.
    """

    def __init__(self, folder: Path, *, workers: Workers = ALONE, keep: int = 2):
        self.folder, self.workers, self.keep = folder, workers, keep
        # Its own process group: writing communicates while the training does, too
        self.group: Any = dist.new_group(backend="gloo") if workers.n > 1 else None
        self.writer = ThreadPoolExecutor(1, "snapshots")
        self.pending: Future[None] | None = None
        if workers.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.suffix in (PARTIAL, GONE):
                    shutil.rmtree(path)
        workers.barrier()

    def save(self, state: TrainState, next_batch: int, metric: float | None = None) -> None:
        """Copies the state and starts to write it, after the previous state is written.

        `metric` (lower is better) is that of the weights that `load_weights` gives. Raises the
        error of the previous write, if it failed.
        """
        self.wait()
        final = self.folder / f"step-{state.step:08d}"
        partial = final.with_name(final.name + PARTIAL)
        about = {
            "step": state.step,
            "next_batch": next_batch,
            "workers": self.workers.n,
            "metric": metric,
        }
        written = async_save(
            dict(tensors_of(state.parts())),
            checkpoint_id=partial,
            process_group=self.group,
            no_dist=self.group is None,
        )
        assert isinstance(written, Future)
        self.pending = self.writer.submit(self._publish, written, partial, final, about)

    def wait(self) -> None:
        """Waits until the last saved state is on disk; raises its error if the write failed."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self.writer.shutdown()

    def latest(self) -> Snapshot | None:
        """The newest complete state, the same on all ranks; None if there is none."""
        found = saved_states(self.folder)
        name = self.workers.broadcast(found[-1].folder.name if found else None)
        return Snapshot(self.folder / name, self.workers) if name else None

    def best(self) -> Snapshot | None:
        """The state with the lowest metric, if any was measured. Not collective."""
        return best_of(saved_states(self.folder))

    def _publish(
        self, written: Future, partial: Path, final: Path, about: Mapping[str, Any]
    ) -> None:
        written.result()  # on rank 0 it ends when the files of all ranks are written
        if not self.workers.is_first:
            return
        write_whole(partial / ABOUT, json.dumps(about).encode())
        if final.exists():
            _discard(final)
        os.rename(partial, final)
        _sync(self.folder)
        best = self.best()
        for old in saved_states(self.folder)[: -self.keep]:
            if best is None or old.folder != best.folder:
                _discard(old.folder)


def saved_states(folder: Path) -> list[Snapshot]:
    """The complete states, oldest first. A running training may delete any of them at any time."""
    return [Snapshot(path) for path in sorted(folder.glob("step-*")) if NAME.fullmatch(path.name)]


def best_of(states: list[Snapshot]) -> Snapshot | None:
    """The state with the lowest metric, if any was measured."""
    measured = [snapshot for snapshot in states if snapshot.about["metric"] is not None]
    return min(measured, key=lambda snapshot: snapshot.about["metric"], default=None)


def _discard(folder: Path) -> None:
    """Deletes a state; renames it first, so that a half deleted one is not taken for a state."""
    gone = folder.with_name(folder.name + GONE)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
