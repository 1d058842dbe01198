"""What the trainings of both small annotators have in common: simulated clips and exact labels in,
a weights file out.

Files of the result: `annotator.safetensors` (weights, config, card), `losses.csv`, `losses.png`,
`training.md`, and a picture of held-out clips.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import nn

from model.training.checkpoint import save_model
from model.training.device import pick_device
from model.training.loop import LossFn, TrainConfig
from stages.base import Progress
from stages.batches import fingerprint
from stages.drawing.loss_plot import plot_losses
from stages.training.run import NOTE_FILE, PLOT_FILE, RunConfig, TrainingRun, finished, summary
from stages.training_card import start_card, training_note
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef

ANNOTATOR_FILE = "annotator.safetensors"

Clips = Mapping[str, np.ndarray]  # arrays of some clips with their labels, (b, ...) each


@runtime_checkable
class AnnotatorTrainer(Protocol):
    """A DatasetStage that trains an annotator; `title` names the network for people."""

    title: ClassVar[str]

    @property
    def model(self) -> Any: ...  # the network's config

    @property
    def training(self) -> TrainConfig: ...

    @property
    def loss(self) -> Any: ...

    @property
    def start_from(self) -> WeightsRef | None: ...

    @property
    def watch(self) -> RunConfig: ...

    @property
    def device(self) -> str | None: ...

    def build(self) -> nn.Module: ...

    def loss_fn(self) -> LossFn: ...

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], Any]: ...

    def scores(self, model: Any, clips: Clips) -> dict[str, float]: ...

    def picture(self, model: Any, clips: Clips) -> bytes: ...


def train_annotator(
    stage: AnnotatorTrainer,
    rows: Mapping[str, Rows],
    held_out: Clips,
    out: ResultWriter,
    progress: Progress,
) -> dict[str, float]:
    """Trains, measures the held-out clips before and after, and leaves the files; returns the
    report's numbers.
    """
    if numbers := finished(out.path, ANNOTATOR_FILE):
        return numbers
    model = stage.build().to(pick_device(stage.device))
    run = TrainingRun(
        model=model,
        loss_fn=stage.loss_fn(),
        batch_at=stage.batches(rows),
        config=stage.training,
        watch=stage.watch,
        folder=out.path,
        progress=progress,
        validate=lambda: stage.scores(model, held_out),
    )
    log = run.finish()
    numbers = summary(log)
    card = {
        **start_card(stage.start_from),
        "data": fingerprint(rows),
        "training": stage.training,
        "stage": stage,
    }
    card["numbers"] = numbers
    save_model(out.path / ANNOTATOR_FILE, model, stage.model, card=parameters(card))
    title = f"{stage.title}, on simulated clips"
    write_file(out.path / PLOT_FILE, plot_losses(log, f"{title}: losses"))
    write_file(out.path / "held_out.png", stage.picture(model, held_out))
    write_file(out.path / NOTE_FILE, training_note(title, stage.start_from, numbers).encode())
    run.clean_up()
    return numbers
