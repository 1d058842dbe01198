"""A training inside a `DatasetStage`: losses in a table, the state saved now and then, going on after a kill.

    losses.csv    one row per step: every part of the loss, learning rate, gradient norm, seconds; losses on held-out
                  clips where they were measured, under `val/...`
    state.pt      network, optimiser and step, from the last save; deleted when the training is done

The table is saved before the state, and a resumed run drops the rows after the state's step: both always agree.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.checkpoint import read_header, write_whole
from model.training import Critic, LossFn, StepReport, TrainConfig, TrainState, load_state, save_state, train
from stages.base import Progress
from stages.batches import Prefetched
from stages.loss_plot import is_loss
from storage.weights import WeightsRef

LogRow = dict[str, float | int]  # "step" is an int

LOG_FILE, STATE_FILE, PLOT_FILE, NOTE_FILE = "losses.csv", "state.pt", "losses.png", "training.md"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a training is watched. Nothing here changes what is trained."""

    save_every: int = 50  # steps; a killed run repeats at most this many
    validate_every: int = 0  # steps between measurements on held-out clips; 0: before the first step and after the last

    def __post_init__(self):
        if self.save_every < 1 or self.validate_every < 0:
            raise ValueError(
                f"save_every={self.save_every}, validate_every={self.validate_every}: expected 1 or more, 0 or more"
            )


@dataclass
class TrainingRun:
    """One training in `folder`. `validate` measures the model on held-out clips; it draws no global random numbers."""

    model: nn.Module
    loss_fn: LossFn
    batch_at: Callable[[int], Any]
    config: TrainConfig
    watch: RunConfig
    folder: Path
    progress: Progress
    validate: Callable[[], Mapping[str, float]]
    critic: Critic | None = None
    log: list[LogRow] = field(default_factory=list)

    def finish(self) -> list[LogRow]:
        """Trains to the last step, from a saved state if there is one; returns the whole log, from step 0 on.

        The model is left in evaluation mode, with its averaged weights if the config keeps an average.
        """
        state = self._resume()
        if state is None:
            self.log = [{"step": 0, **self._validated()}]
        batches = Prefetched(self.batch_at)
        try:
            with seeded(self.config.seed):  # whatever drew before in this process must not matter
                last = train(
                    self.model, self.loss_fn, batches, self.config, state=state, on_step=self._on_step,
                    critic=self.critic,
                )  # fmt: skip
        finally:
            batches.close()
        if last.ema is not None:
            self.model.load_state_dict(last.ema)
            self.log[-1] |= self._validated()
        self._write_log()
        self.model.eval()
        return self.log

    def clean_up(self) -> None:
        """Deletes the saved state: call when the checkpoint is written."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)

    def _resume(self) -> TrainState | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE_FILE
        if not path.exists():
            return None
        state = load_state(path)
        self.log = [row for row in read_log(self.folder / LOG_FILE) if row["step"] <= state.step]
        return state

    def _on_step(self, report: StepReport) -> None:
        row = {"step": report.step, **report.losses, "learning_rate": report.learning_rate}
        self.log.append(row | {"grad_norm": report.grad_norm, "seconds": report.seconds})
        last = report.step == self.config.steps
        if last or (self.watch.validate_every and report.step % self.watch.validate_every == 0):
            self.log[-1] |= self._validated()
            self.model.train()
        if last or report.step % self.watch.save_every == 0:
            self._write_log()
            save_state(self.folder / STATE_FILE, report.capture())
        self.progress(report.step, self.config.steps, f"loss {report.losses['total']:.3f}")

    def _validated(self) -> LogRow:
        self.model.eval()
        return {f"val/{name}": value for name, value in self.validate().items()}

    def _write_log(self) -> None:
        columns = list(dict.fromkeys(name for row in self.log for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.log)  # a float's text in Python gives the same float back
        write_whole(self.folder / LOG_FILE, text.getvalue().encode())


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `losses.csv`, without its empty cells; `step` is a whole number."""
    with open(path, newline="") as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows]


def summary(log: list[LogRow], n_mean: int = 10) -> dict[str, float]:
    """What a report shows: losses in the first and the last steps (means over `n_mean`), and on held-out clips."""
    steps = log[1:]
    numbers = {"steps": float(log[-1]["step"])}
    for name in dict.fromkeys(name for row in steps for name in row if is_loss(name)):
        values = [row[name] for row in steps if name in row]
        numbers[f"{name}, first steps"] = float(np.mean(values[:n_mean]))
        numbers[f"{name}, last steps"] = float(np.mean(values[-n_mean:]))
    for name in (name for name in log[0] if name.startswith("val/")):
        numbers[f"{name}, before"], numbers[f"{name}, after"] = log[0][name], log[-1][name]
    return numbers


def start_card(start_from: WeightsRef | None) -> dict[str, Any]:
    """What a checkpoint's card says about where its training began."""
    if start_from is None:
        return {"started_from": "random weights", "steps_before": 0}
    before = read_header(start_from.resolve())["card"]
    steps = before.get("steps_before", 0) + before.get("training", {}).get("steps", 0)
    return {"started_from": f"{start_from.name} (SHA-256 {start_from.sha256})", "steps_before": steps}


def training_note(title: str, start_from: WeightsRef | None, numbers: Mapping[str, float]) -> str:
    """Markdown for the report: what this training started from, and what it changed on held-out clips."""
    card = start_card(start_from)
    before = f", after {card['steps_before']} steps elsewhere" if card["steps_before"] else ""
    lines = [
        f"# {title}",
        "",
        f"Started from **{card['started_from']}**{before}; trained {numbers['steps']:.0f} steps here.",
        "",
    ]
    lines += ["| on held-out clips | before | after |", "|---|---|---|"]
    for name in (name.removesuffix(", before") for name in numbers if name.endswith(", before")):
        old, new = numbers[f"{name}, before"], numbers[f"{name}, after"]
        lines.append(f"| {name.removeprefix('val/')} | {old:.4g} | {new:.4g} |")
    return "\n".join([*lines, ""])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator at `seed`; afterwards the CPU's is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None takes a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
