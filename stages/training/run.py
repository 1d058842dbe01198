"""A training inside a `DatasetStage`: its losses in a table, its state saved now and then, resumed
after a kill.

    losses.csv      one row per step: every part of the loss, learning rate, gradient norm,
                    seconds; where they were measured, losses on held-out clips (`val/...`)
                    and sample rollouts (`rollout/...`)
    throughput.md   clips a second and MFU, where the stage says what a clip costs
    states/         network, optimiser and step of the last saves; deleted at the end
    tensorboard/    the same numbers and the sample rollouts, with `RunConfig.tensorboard`

The table is saved before the state, and a resumed run drops the rows after the state's step, so
both always agree. With many workers each has a TrainingRun; the first one measures and writes.

If the config keeps an average of the weights (EMA), the average is measured, sampled and returned.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from torch import nn

from model.training.device import seeded
from model.training.loop import Discriminator, LossFn, StepReport, TrainConfig, train
from model.training.parallel import Parallel, load_whole, uncompiled
from model.training.snapshots import Snapshot, Snapshots
from model.training.spikes import SpikeGuard
from stages.base import Progress
from stages.training.log import LOG_FILE, LogRow, log_csv, read_log
from stages.training.mfu import THROUGHPUT_FILE, Meter
from stages.training.prefetch import Prefetched
from stages.training.states import STATES, drop_states
from stages.training.tensorboard import EventFile
from storage.atomic import write_file

ROLLOUTS = "rollouts"  # folder of the sample rollouts' pictures

# (network, steps done) -> numbers for the table, and a PNG if there is one
Sample = Callable[[Any, int], tuple[Mapping[str, float], bytes | None]]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training is saved and watched. Nothing here changes what is trained."""

    save_every: Annotated[int, Ge(1)] = 50  # steps; a killed run repeats at most this many
    # Saved states, besides the one with the least loss on held-out clips
    keep: Annotated[int, Ge(1)] = 2
    # Steps between measurements on held-out clips; 0: before the first step and after the last
    validate_every: Annotated[int, Ge(0)] = 0
    # Steps between sample rollouts of held-out clips; 0: none
    rollout_every: Annotated[int, Ge(0)] = 0
    tensorboard: bool = False
    # A loss or gradient norm this many robust deviations above earlier steps stops the training; 0:
    # never. Off by default: in small batches the share of masked tokens alone makes the loss jump.
    spike_deviations: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self):
        if min(self.save_every, self.keep) < 1 or min(self.validate_every, self.rollout_every) < 0:
            raise ValueError(
                f"save_every={self.save_every}, keep={self.keep}: expected 1 or more; "
                f"validate_every={self.validate_every}, rollout_every={self.rollout_every}: "
                "expected 0 or more"
            )
        if self.spike_deviations < 0:
            raise ValueError(f"spike_deviations={self.spike_deviations}: expected 0 or more")


@dataclass
class TrainingRun:
    """One training in `folder`.

    `validate` measures the model on held-out clips without using the global random generators.
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
        """The whole log, from step 0 on, after training to the last step.

        Resumes from the newest saved state. Afterwards the model is in evaluation mode, with its
        averaged weights if the config keeps an average.
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
        pin = self.device.type == "cuda"  # to memory from which the GPU copies by itself
        batches = Prefetched((lambda i: self.batch_at(i).pinned()) if pin else self.batch_at)
        try:
            with seeded(self.config.seed):  # independent of earlier draws
                last = train(
                    self.model, self.loss_fn, batches, self.config, state=start,
                    on_step=self._on_step, discriminator=self.discriminator, guard=self._guard(),
                    parallel=self.parallel,
                )  # fmt: skip
        finally:
            batches.close()
        if last.ema is not None:
            load_whole(self.model, last.ema)
        self._write_log()
        self.model.eval()

    def best(self) -> Snapshot | None:
        """The saved state with the least held-out loss, unless it is unknown or the last one."""
        found = self.snapshots.best()
        return found if found is not None and found.step < self.config.steps else None

    def clean_up(self) -> None:
        """Deletes the saved states. Call it last: without them the training counts as finished."""
        drop_states(self.folder)

    def _resume(self, start: Snapshot | None) -> None:
        """Reads the log up to the saved state, or measures its first row."""
        if start is None:
            self.log = [{"step": 0, **self._validated()}]
        else:
            self.log = [
                row for row in read_log(self.folder / LOG_FILE) if row["step"] <= start.step
            ]
        if self.watch.tensorboard and self.workers.is_first:
            self.events = EventFile(self.folder, after_step=int(self.log[-1]["step"]))

    def _guard(self) -> SpikeGuard | None:
        """A guard that knows the logged steps, so that resuming does not change its decisions."""
        if not self.watch.spike_deviations:
            return None
        guard = SpikeGuard(self.watch.spike_deviations)
        for row in self.log[1:]:
            guard.remember({"loss": row["total"], "gradient norm": row["grad_norm"]})
        return guard

    def _on_step(self, report: StepReport) -> None:
        row: LogRow = {"step": report.step, **report.losses, "learning_rate": report.learning_rate}
        self.log.append(row | {"grad_norm": report.grad_norm, "seconds": report.seconds})
        # Measure and sample with the weights that the training would end with now
        last = report.step == self.config.steps
        measured = last or _due(report.step, self.watch.validate_every)
        sampled = _due(report.step, self.watch.rollout_every)
        if measured or sampled:
            with self._final_weights(report):
                self.log[-1] |= self._validated() if measured else {}
                self.log[-1] |= self._sampled(report.step) if sampled else {}
        # Save the log before the state: a resumed run drops the rows after the state's step
        if measured or report.step % self.watch.save_every == 0:
            self._write_log()
            next_batch = report.step * self.config.grad_accum_steps
            self.snapshots.save(report.state(), next_batch, metric=self.log[-1].get("val/total"))
        if self.workers.is_first:
            self._report(report)

    def _report(self, report: StepReport) -> None:
        rates = self.meter.rates(report.seconds) if self.meter else {}
        if self.events is not None:
            numbers = {name: value for name, value in self.log[-1].items() if name != "step"}
            self.events.numbers(report.step, numbers | rates)
        notes = [f"loss {report.losses['total']:.3f}"]
        if self.meter is not None:
            parts = [(name, value) for name, value in report.losses.items() if name != "total"]
            notes += [f"{name} {value:.3f}" for name, value in parts]
            notes += [f"{rates['clips/s']:.3g} clips/s", f"{rates['MFU']:.0%} MFU"]
        self.progress(report.step, self.config.steps, ", ".join(notes))

    @contextmanager
    def _final_weights(self, report: StepReport) -> Iterator[None]:
        """Loads into the plain model what the training would return now: its weights or their EMA.

        With sharded weights the plain model is a copy. Otherwise it is the one being trained, and
        gets its own weights back, bit for bit.
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
        """Losses on held-out clips, measured by the first worker while the others wait."""
        found: LogRow = {}
        if self.workers.is_first:
            with self._for_evaluation():
                found = {f"val/{name}": value for name, value in self.validate().items()}
        return self.workers.broadcast(found)

    def _sampled(self, step: int) -> LogRow:
        """Numbers of a sample rollout; only the first worker needs a `sample`."""
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
        """The plain model on the device, in evaluation mode; with shards it rests on the CPU."""
        resting_device = next(self.model.parameters()).device
        self.model.to(self.device).eval()
        try:
            with uncompiled():
                yield
        finally:
            self.model.to(resting_device)

    def _write_log(self) -> None:
        if not self.workers.is_first:
            return
        write_file(self.folder / LOG_FILE, log_csv(self.log))
        if self.meter is not None and len(self.log) > 1:
            seconds = [row["seconds"] for row in self.log[1:]]
            write_file(self.folder / THROUGHPUT_FILE, self.meter.report(seconds).encode())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
