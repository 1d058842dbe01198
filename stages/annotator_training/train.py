"""What the trainings of both small annotators share: simulated clips and exact labels -> weights.

Writes `annotator.safetensors` (weights, config, card), `losses.csv`, `losses.png`, `training.md`,
and a picture of held-out clips.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from torch import nn

from model.training.device import pick_device
from model.training.loop import LossFn, TrainConfig
from stages.base import DatasetStage, Progress
from stages.batches import fingerprint, gather, spread_rows, usable_rows
from stages.training.log import summary
from stages.training.result import write_training
from stages.training.run import RunConfig, TrainingRun
from stages.training.states import finished
from storage.atomic import write_file
from storage.stores.results import Result, ResultWriter
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef

ANNOTATOR_FILE = "annotator.safetensors"

Clips = Mapping[str, np.ndarray]  # arrays of clips and their labels, (b, ...) each


class TrainAnnotator(DatasetStage):
    """Trains a network on the `train` split and measures it on whole clips of the `val` split.

    A subclass is a dataclass with these fields. `title` is the network's name in reports.
    """

    title: ClassVar[str]
    version: ClassVar[int] = 1
    model: Any  # the network's config
    training: TrainConfig
    n_val_clips: int
    start_from: WeightsRef | None
    watch: RunConfig
    device: str | None

    @property
    def config_name(self) -> str:
        return "annotator"

    @abstractmethod
    def build(self) -> nn.Module: ...

    @abstractmethod
    def loss_fn(self) -> LossFn: ...

    @abstractmethod
    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], Any]: ...

    @abstractmethod
    def scores(self, model: Any, clips: Clips) -> dict[str, float]: ...

    @abstractmethod
    def picture(self, model: Any, clips: Clips) -> bytes: ...

    def read_clips(
        self, rows: Mapping[str, Rows], chosen: Int[np.ndarray, " b"]
    ) -> dict[str, np.ndarray]:
        """Frames and exact labels of these rows."""
        frames = gather(rows["clip"], ("rgb",), chosen)
        return frames | gather(rows["truth"], self.inputs["truth"], chosen)

    def run(
        self,
        rows: Mapping[str, Rows],
        results: Mapping[str, Result],
        out: ResultWriter,
        progress: Progress,
    ) -> dict[str, float]:
        if numbers := finished(out.path, ANNOTATOR_FILE):
            return numbers
        held_out = self.read_clips(rows, spread_rows(usable_rows(rows, "val"), self.n_val_clips))
        model = self.build().to(pick_device(self.device))
        run = TrainingRun(
            model=model,
            loss_fn=self.loss_fn(),
            batch_at=self.batches(rows),
            config=self.training,
            watch=self.watch,
            folder=out.path,
            progress=progress,
            validate=lambda: self.scores(model, held_out),
        )
        log = run.finish()
        numbers = summary(log)
        write_training(
            out.path / ANNOTATOR_FILE,
            model,
            self.model,
            title=f"{self.title}, on simulated clips",
            log=log,
            numbers=numbers,
            start_from=self.start_from,
            card={"data": fingerprint(rows), "training": self.training, "stage": self},
        )
        write_file(out.path / "held_out.png", self.picture(model, held_out))
        run.clean_up()
        return numbers
