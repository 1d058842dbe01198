"""Saved states of a running training, so that it goes on where it was stopped.

    <folder>/step-00000400/      one state: every worker's own part of it (PyTorch's distributed checkpoints), and
        about.json               step, number of the next batch, workers, the loss on held-out clips if it was measured
    <folder>/step-00000450.partial/     one that is being written, or was when the process died: it does not count

A state is copied when it is saved and written while the training goes on; its folder gets its name
when all of it is on the disk. Any number of workers can go on from it, whole or in shards. The
newest few are kept, and the best.
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

# It warns whenever a process saves or reads by itself, which is meant here.
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
        """Reads everything into the tensors of a running training, whichever parts of it are this
        worker's.
        """
        saved = self._names()
        check_alike(self.step, {name.partition(".")[0] for name in saved}, live.parts())
        wanted = {
            name: tensor
            for name, tensor in tensors_of(live.parts())
            if name in saved or name != "rng.cuda"
        }
        self._read(wanted, self.workers)
        return self.step

    def load_weights(self, module: nn.Module) -> None:
        """Sets a plain module to the averaged weights, or to those themselves where no average is
        kept; for one process by itself.
        """
        averaged = any(name.startswith("ema.") for name in self._names())
        self._read(dict(tensors_of({"ema" if averaged else "model": module.state_dict()})), ALONE)

    def _names(self) -> set[str]:
        return set(FileSystemReader(self.folder).read_metadata().state_dict_metadata)

    def _read(self, tensors: dict[str, Tensor], workers: Workers) -> None:
        load(tensors, checkpoint_id=self.folder, no_dist=workers.n == 1)


class Snapshots:
    """The states of one training in `folder`, which all workers see. Its methods are collective:
    every rank must call them.
    """

    def __init__(self, folder: Path, *, workers: Workers = ALONE, keep: int = 2):
        self.folder, self.workers, self.keep = folder, workers, keep
        # Writing talks to the other workers beside the training, so it does that in a group of its
        # own.
        self.group: Any = dist.new_group(backend="gloo") if workers.n > 1 else None
        self.writer = ThreadPoolExecutor(1, "snapshots")
        self.pending: Future[None] | None = None
        if workers.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.iterdir():
                if left.suffix in (PARTIAL, GONE):
                    shutil.rmtree(left)
        workers.barrier()

    def save(self, state: TrainState, next_batch: int, metric: float | None = None) -> None:
        """Copies the state and begins to write it; waits for the one before to be written.

        metric: of the weights that `load_weights` gives, less is better. Raises what went wrong
        with the state before.
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
        """Until what was saved is on the disk. Raises what went wrong with it."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self.writer.shutdown()

    def latest(self) -> Snapshot | None:
        """The newest complete state; the same for all workers."""
        found = saved_states(self.folder)
        name = self.workers.broadcast(found[-1].folder.name if found else None)
        return Snapshot(self.folder / name, self.workers) if name else None

    def best(self) -> Snapshot | None:
        """The one with the least metric, if any was measured. For one worker by itself."""
        return best_of(saved_states(self.folder))

    def _publish(
        self, written: Future, partial: Path, final: Path, about: Mapping[str, Any]
    ) -> None:
        written.result()  # the first worker's ends when all workers' files are there
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
    """The complete ones, oldest first. Looks only: a training may be writing there, and drop one at
    any time.
    """
    return [Snapshot(path) for path in sorted(folder.glob("step-*")) if NAME.fullmatch(path.name)]


def best_of(states: list[Snapshot]) -> Snapshot | None:
    """The one with the least metric, if any was measured."""
    measured = [snapshot for snapshot in states if snapshot.about["metric"] is not None]
    return min(measured, key=lambda snapshot: snapshot.about["metric"], default=None)


def _discard(folder: Path) -> None:
    """Renamed first: a folder that is half deleted must not pass for a state."""
    gone = folder.with_name(folder.name + GONE)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
