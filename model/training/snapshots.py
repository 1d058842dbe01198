"""Saved states of a running training, from which it resumes.

    <folder>/step-00000400/             one state: all ranks' tensors, and `about.json`: step, next
                                        batch, workers, loss on held-out clips, digests of the files
    <folder>/step-00000450.partial/     not complete: being written, or the process died meanwhile
    <folder>/step-00000350.damaged/     set aside: it was not what had been written

A state is copied when it is saved, and written while the training continues; its folder is renamed
when all of it is on disk. Any number of workers can resume from it, with DDP or FSDP. Before a
state is used, its files are compared with their digests. The newest few are kept, and the best.
"""

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from model.training.checkpoint import write_whole
from model.training.loop import TrainState, check_alike, tensors_of
from model.training.old_state_files import OldStateReader, read_old_metadata
from model.training.parallel import ALONE, Workers
from model.training.state_files import (
    ABOUT,
    DamagedState,
    StateReader,
    StateWriter,
    check_file,
    encode_record,
    flush,
    read_record,
)

PARTIAL, GONE, DAMAGED = ".partial", ".gone", ".damaged"
ABOUT_FIELDS = ("step", "next_batch", "workers", "metric")
NAME = re.compile(r"step-\d+")

# PyTorch warns whenever a single process saves or reads a state; here that is intended
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True)
class Snapshot:
    """One complete saved state."""

    folder: Path
    workers: Workers = ALONE

    @cached_property
    def record(self) -> dict[str, Any]:
        """Raises DamagedState if it is not what was written."""
        return read_record(self.folder)

    @property
    def about(self) -> dict[str, Any]:
        return {name: self.record[name] for name in ABOUT_FIELDS}

    @property
    def has_digests(self) -> bool:
        """False for states that an earlier version of this code saved."""
        return "files" in self.record

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step-"))

    def problems(self) -> list[str]:
        """What is wrong with the state's files; empty if they are what was written. Collective."""
        try:
            files = sorted(self.record["files"].items()) if self.has_digests else []
            if not self.has_digests and self.workers.is_first:
                read_old_metadata(self.folder)
            found = [check_file(self.folder, name, expected) for name, expected in files[self._own]]
        except DamagedState as error:
            found = [str(error)]
        by_rank = self.workers.gather([problem for problem in found if problem])
        return sorted({problem for of_rank in by_rank for problem in of_rank})

    @property
    def _own(self) -> slice:
        return slice(self.workers.rank, None, self.workers.n)

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

        Not collective. Raises DamagedState if the state is not what was written.
        """
        if problems := Snapshot(self.folder).problems():
            raise DamagedState(
                f"the saved state of step {self.step} is damaged: {'; '.join(problems)}. Delete "
                f"the folder {self.folder} to go on without it"
            )
        averaged = any(name.startswith("ema.") for name in self._names())
        self._read(dict(tensors_of({"ema" if averaged else "model": module.state_dict()})), ALONE)

    def _names(self) -> set[str]:
        if self.has_digests:
            return set(self.record["tensors"])
        return set(read_old_metadata(self.folder).state_dict_metadata)

    def _read(self, tensors: dict[str, Tensor], workers: Workers) -> None:
        has = self.has_digests
        reader = StateReader(self.folder, self.record) if has else OldStateReader(self.folder)
        try:
            with _plain_errors():
                load(tensors, storage_reader=reader, no_dist=workers.n == 1)
        except Exception as error:
            if has:
                raise
            # Without digests, reading is what shows the damage, in any way
            raise DamagedState(f"{self.folder}: cannot be read ({error!r})") from error


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
        writer = StateWriter(partial)
        with _plain_errors():
            written = async_save(
                dict(tensors_of(state.parts())),
                storage_writer=writer,
                process_group=self.group,
                no_dist=self.group is None,
            )
        assert isinstance(written, Future)
        self.pending = self.writer.submit(self._publish, written, writer, final, about)

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
        """The newest complete state that is what was written, the same on all ranks; None if no
        state was saved.

        Newer ones that are damaged are set aside, with a warning. Raises DamagedState if all are.
        """
        names = self.workers.broadcast([state.folder.name for state in saved_states(self.folder)])
        damaged: dict[Path, list[str]] = {}
        for name in reversed(names):
            state = Snapshot(self.folder / name, self.workers)
            if problems := state.problems():
                damaged[state.folder] = problems
                continue
            if self.workers.is_first:
                _set_aside(damaged, state)
            self.workers.barrier()
            return state
        if damaged:
            found = "; ".join(problem for problems in damaged.values() for problem in problems)
            raise DamagedState(
                f"no saved state of this training can be used ({found}). To start it again from "
                f"its first step, delete the folder {self.folder}"
            )
        return None

    def best(self) -> Snapshot | None:
        """The state with the lowest metric, if any was measured. Not collective."""
        return best_of(saved_states(self.folder))

    def _publish(
        self, written: Future, writer: StateWriter, final: Path, about: Mapping[str, Any]
    ) -> None:
        try:
            with _plain_errors():
                written.result()  # on rank 0 it ends when the files of all ranks are written
            if not self.workers.is_first:
                return
            write_whole(writer.folder / ABOUT, encode_record({**about, **writer.record}))
        except Exception:
            if self.workers.is_first:  # a full disk needs the space
                shutil.rmtree(writer.folder, ignore_errors=True)
            raise
        if final.exists():
            _discard(final)
        os.rename(writer.folder, final)
        flush(self.folder)
        best = self.best()
        for old in saved_states(self.folder)[: -self.keep]:
            if best is None or old.folder != best.folder:
                _discard(old.folder)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raises the first worker's error in place of PyTorch's, which holds the errors and traces of
    all workers as one text, and is no Exception.
    """
    try:
        yield
    except CheckpointException as error:
        cause, _ = error.failures[min(error.failures)]
        raise cause from None


def saved_states(folder: Path) -> list[Snapshot]:
    """The complete states, oldest first. A running training may delete any of them at any time."""
    return [Snapshot(path) for path in sorted(folder.glob("step-*")) if NAME.fullmatch(path.name)]


def best_of(states: list[Snapshot]) -> Snapshot | None:
    """The state with the lowest metric, if any was measured; not one whose record is damaged."""
    measured = [(metric, state) for state in states if (metric := _metric(state)) is not None]
    return min(measured, key=lambda found: found[0], default=(None, None))[1]


def _metric(state: Snapshot) -> float | None:
    try:
        return state.about["metric"]
    except DamagedState as error:
        warnings.warn(f"not compared with the other saved states: {error}", stacklevel=2)
        return None


def _set_aside(damaged: Mapping[Path, list[str]], used: Snapshot) -> None:
    """Renames damaged states, so that they do not count, and says so."""
    for folder, problems in damaged.items():
        aside = folder.with_name(folder.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
        warnings.warn(
            f"the saved state {folder.name} is damaged ({'; '.join(problems)}); the training "
            f"resumes from step {used.step}. It is kept as {aside} until the training is complete",
            stacklevel=3,
        )
    if not used.has_digests:
        warnings.warn(
            f"the saved state {used.folder} is of an earlier version, which wrote no digests: "
            "whether its numbers are those that were saved cannot be checked",
            stacklevel=3,
        )


def _discard(folder: Path) -> None:
    """Deletes a state; renames it first, so that a half deleted one is not taken for a state."""
    gone = folder.with_name(folder.name + GONE)
    os.rename(folder, gone)
    shutil.rmtree(gone)
