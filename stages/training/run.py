"""A training inside a `DatasetStage`: losses in a table, the state saved now and then, going on
after a kill.

    losses.csv      one row per step: every part of the loss, learning rate, gradient norm, seconds; losses on held-out
                    clips where they were measured, under `val/...`, and sample rollouts, under `rollout/...`
    throughput.md   clips a second and share of the machine's rate, where the stage says what a clip costs
    states/         network, optimiser and step, from the last saves; deleted when the training is done
    tensorboard/    the table's numbers and the sample rollouts as event files, where `RunConfig.tensorboard` is set

The table is saved before the state, and a resumed run drops the rows after the state's step: both
always agree. With many workers each one has a TrainingRun; the first one measures and writes.

Where the config keeps an average of the weights, the average is what is measured, sampled and left.
"""

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from model.training.checkpoint import read_header
from model.training.device import seeded
from model.training.loop import Discriminator, LossFn, StepReport, TrainConfig, train
from model.training.parallel import Parallel, load_whole, uncompiled
from model.training.snapshots import Snapshot, Snapshots
from model.training.spikes import SpikeGuard
from stages.base import Progress
from stages.drawing.loss_plot import is_loss
from stages.training.mfu import THROUGHPUT_FILE, Meter
from stages.training.prefetch import Prefetched
from stages.training.tensorboard import EventFile
from storage.atomic import write_file

LogRow = dict[str, float | int]  # "step" is an int

ROLLOUTS = "rollouts"  # folder of the sample rollouts' pictures
LOG_FILE, STATES, PLOT_FILE, NOTE_FILE = "losses.csv", "states", "losses.png", "training.md"


# (plain network, steps done) -> numbers for the table, and a PNG if there is one to show
Sample = Callable[[Any, int], tuple[Mapping[str, float], bytes | None]]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training is watched. Nothing here changes what is trained."""

    save_every: int = 50  # steps; a killed run repeats at most this many
    keep: int = 2  # saved states; the one with the least loss on held-out clips stays beside them
    # Steps between measurements on held-out clips; 0: before the first step and after the last
    validate_every: int = 0
    rollout_every: int = 0  # steps between sample rollouts of held-out clips; 0: none
    tensorboard: bool = False
    # A loss or gradient norm so many robust deviations above the steps before stops the training; 0
    # never does. Off by default: with a few clips a batch, the share of masked tokens alone makes
    # the loss jump.
    spike_deviations: float = 0.0

    def __post_init__(self):
        if min(self.save_every, self.keep) < 1 or min(self.validate_every, self.rollout_every) < 0:
            raise ValueError(
                f"save_every={self.save_every}, keep={self.keep}, validate_every={self.validate_every}, "
                f"rollout_every={self.rollout_every}: expected 1 or more for the first two, 0 or more for the others"
            )
        if self.spike_deviations < 0:
            raise ValueError(f"spike_deviations={self.spike_deviations}: expected 0 or more")


@dataclass
class TrainingRun:
    """One training in `folder`. `validate` measures the model on held-out clips; it draws no global
    random numbers.
    """

    model: nn.Module
    loss_fn: LossFn
    batch_at: Callable[[int], Any]
    config: TrainConfig
    watch: RunConfig
    folder: Path
    progress: Progress
    validate: Callable[[], Mapping[str, float]]
    discriminator: Discriminator | None = None
    parallel: Parallel = field(default_factory=Parallel)
    meter: Meter | None = None
    sample: Sample | None = None
    log: list[LogRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = self.parallel.workers
        self.device = next(self.model.parameters()).device
        self.events: EventFile | None = None

    def finish(self) -> list[LogRow]:
        """Trains to the last step, from a saved state if there is one; returns the whole log, from
        step 0 on.

        The model is left in evaluation mode, with its averaged weights if the config keeps an
        average.
        """
        self.snapshots = Snapshots(self.folder / STATES, workers=self.workers, keep=self.watch.keep)
        try:
            start = self.snapshots.latest()
            self._resume(start)
            self._train(start)
        finally:
            self.snapshots.close()
            if self.events is not None:
                self.events.close()
        return self.log

    def _train(self, start: Snapshot | None) -> None:
        batches = Prefetched(self.batch_at, pin=self.device.type == "cuda")
        try:
            with seeded(self.config.seed):  # whatever drew before in this process must not matter
                last = train(
                    self.model, self.loss_fn, batches, self.config, state=start, on_step=self._on_step,
                    discriminator=self.discriminator, guard=self._guard(), parallel=self.parallel,
                )  # fmt: skip
        finally:
            batches.close()
        if last.ema is not None:
            load_whole(self.model, last.ema)
        self._write_log()
        self.model.eval()

    def best(self) -> Snapshot | None:
        """The saved state with the least loss on held-out clips, if that was measured and others
        came after it.
        """
        found = self.snapshots.best()
        return found if found is not None and found.step < self.config.steps else None

    def clean_up(self) -> None:
        """Deletes the saved states: call when everything else is written. A kill after it leaves it
        `finished`.
        """
        drop_states(self.folder)

    def _resume(self, start: Snapshot | None) -> None:
        """The log up to the saved state, or its first row."""
        if start is None:
            self.log = [{"step": 0, **self._validated()}]
        else:
            self.log = [
                row for row in read_log(self.folder / LOG_FILE) if row["step"] <= start.step
            ]
        if self.watch.tensorboard and self.workers.is_first:
            self.events = EventFile(self.folder, after_step=int(self.log[-1]["step"]))

    def _guard(self) -> SpikeGuard | None:
        """Knows the steps before a resumption, so that it judges as if there had been none."""
        if not self.watch.spike_deviations:
            return None
        guard = SpikeGuard(self.watch.spike_deviations)
        for row in self.log[1:]:
            guard.remember({"loss": row["total"], "gradient norm": row["grad_norm"]})
        return guard

    def _on_step(self, report: StepReport) -> None:
        row: LogRow = {"step": report.step, **report.losses, "learning_rate": report.learning_rate}
        self.log.append(row | {"grad_norm": report.grad_norm, "seconds": report.seconds})
        last = report.step == self.config.steps
        measured = last or _due(report.step, self.watch.validate_every)
        sampled = _due(report.step, self.watch.rollout_every)
        if measured or sampled:
            with self._to_be_left(report):
                self.log[-1] |= self._validated() if measured else {}
                self.log[-1] |= self._sampled(report.step) if sampled else {}
        if measured or report.step % self.watch.save_every == 0:
            self._write_log()
            next_batch = report.step * self.config.grad_accum_steps
            self.snapshots.save(report.state(), next_batch, metric=self.log[-1].get("val/total"))
        if self.workers.is_first:
            self._tell(report)

    def _tell(self, report: StepReport) -> None:
        rates = self.meter.rates(report.seconds) if self.meter else {}
        if self.events is not None:
            self.events.numbers(
                report.step, {k: v for k, v in self.log[-1].items() if k != "step"} | rates
            )
        notes = [f"loss {report.losses['total']:.3f}"]
        if self.meter is not None:
            notes += [
                f"{name} {value:.3f}" for name, value in report.losses.items() if name != "total"
            ]
            notes += [f"{rates['clips/s']:.3g} clips/s", f"{rates['MFU']:.0%} MFU"]
        self.progress(report.step, self.config.steps, ", ".join(notes))

    @contextmanager
    def _to_be_left(self, report: StepReport) -> Iterator[None]:
        """The plain model with the weights that the training would leave now: those trained, or
        their average.

        Where the weights lie in shards, the plain model is another than the one that is trained.
        Otherwise it is the same, and gets its own weights back, bit for bit.
        """
        state = report.state()
        if self.parallel.shards:
            load_whole(self.model, state.ema or state.model)
            yield
        elif state.ema is None or not self.workers.is_first:
            yield
        else:
            trained = {name: value.clone() for name, value in self.model.state_dict().items()}
            load_whole(self.model, state.ema)
            try:
                yield
            finally:
                load_whole(self.model, trained)

    def _validated(self) -> LogRow:
        """By the first worker, while the others wait."""
        found: LogRow = {}
        if self.workers.is_first:
            with self._for_evaluation():
                found = {f"val/{name}": value for name, value in self.validate().items()}
        return self.workers.broadcast(found)

    def _sampled(self, step: int) -> LogRow:
        """By the first worker, who alone need have a `sample`."""
        found: LogRow = {}
        if self.workers.is_first and self.sample is not None:
            with self._for_evaluation():
                numbers, picture = self.sample(self.model, step)
            found = {f"rollout/{name}": value for name, value in numbers.items()}
            if picture is not None:
                write_file(self.folder / ROLLOUTS / f"step-{step:08d}.png", picture)
            if picture is not None and self.events is not None:
                self.events.picture(step, "rollout", picture)
        return self.workers.broadcast(found)

    @contextmanager
    def _for_evaluation(self) -> Iterator[None]:
        """The plain model as it is to be measured; while it is trained in shards it waits on the
        CPU.
        """
        waits_at = next(self.model.parameters()).device
        self.model.to(self.device).eval()
        try:
            with uncompiled():
                yield
        finally:
            self.model.to(waits_at)

    def _write_log(self) -> None:
        if not self.workers.is_first:
            return
        columns = list(dict.fromkeys(name for row in self.log for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.log)  # a float's text in Python gives the same float back
        write_file(self.folder / LOG_FILE, text.getvalue().encode())
        if self.meter is not None and len(self.log) > 1:
            seconds = [row["seconds"] for row in self.log[1:]]
            write_file(self.folder / THROUGHPUT_FILE, self.meter.report(seconds).encode())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def finished(folder: Path, checkpoint: str) -> dict[str, float] | None:
    """The numbers of a training that an attempt before ended, all but the seal: its saved states go
    last.
    """
    if not (folder / checkpoint).exists() or (folder / STATES).exists():
        return None
    drop_states(folder)
    return read_header(folder / checkpoint)["card"]["numbers"]


def drop_states(folder: Path) -> None:
    """Renamed first: states that are half deleted must not pass for those of a training that goes
    on.
    """
    gone = folder / f"{STATES}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if (folder / STATES).exists():
        (folder / STATES).rename(gone)
        shutil.rmtree(gone)


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `losses.csv`, without its empty cells; `step` is a whole number."""
    with open(path, newline="") as file:
        rows = [
            {name: float(cell) for name, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]
    return [row | {"step": int(row["step"])} for row in rows]


def summary(log: list[LogRow], n_mean: int = 10) -> dict[str, float]:
    """What a report shows: losses in the first and the last steps (means over `n_mean`), and on
    held-out clips.
    """
    steps = log[1:]
    numbers = {"steps": float(log[-1]["step"])}
    for name in dict.fromkeys(name for row in steps for name in row if is_loss(name)):
        values = [row[name] for row in steps if name in row]
        numbers[f"{name}, first steps"] = float(np.mean(values[:n_mean]))
        numbers[f"{name}, last steps"] = float(np.mean(values[-n_mean:]))
    for name in (name for name in log[0] if name.startswith("val/")):
        numbers[f"{name}, before"], numbers[f"{name}, after"] = log[0][name], log[-1][name]
    return numbers
