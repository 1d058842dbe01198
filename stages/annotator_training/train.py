"""What the trainings of both small annotators share: simulated clips and exact labels -> weights.

Writes `annotator.safetensors` (weights, config, card), `losses.csv`, `losses.png`, `training.md`,
and a picture of held-out clips.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from jaxtyping import Int
from torch import nn

from model.training.device import DeviceName, pick_device
from model.training.loop import LossFn, TrainConfig
from stages.base import DatasetStage, InputResults, InputRows, Progress, Resources
from stages.batches import fingerprint, gather, spread_rows, usable_rows
from stages.training.disk_use import parameter_count, training_use
from stages.training.log import summary
from stages.training.result import write_training
from stages.training.run import RunConfig, TrainingRun
from stages.training.states import finished
from storage.atomic import write_file
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef

ANNOTATOR_FILE = "annotator.safetensors"

Clips = Mapping[str, np.ndarray]  # arrays of clips and their labels, (b, ...) each


@dataclass(frozen=True, kw_only=True)
class TrainAnnotator(DatasetStage):
    """Trains one on the `train` split and measures it on whole clips of the `val` split.

    A subclass adds `model`, the network's config. `title` names the network for people.
    """

    model: Any
    training: TrainConfig
    n_val_clips: Annotated[int, Ge(1)] = 16
    start_from: WeightsRef | None = None
    watch: RunConfig = field(default=RunConfig(), metadata={"key": False})
    # None: a GPU where there is one
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=1.0, memory_gb=4.0), metadata={"key": False}
    )

    title: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def config_name(self) -> str:
        return "annotator"

    def disk_use(self, n_clips: int) -> DiskUse:
        return training_use(parameter_count(self.new_network), self.training, self.watch)

    @abstractmethod
    def new_network(self) -> nn.Module:
        """The network of `model`, with any weights."""

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
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
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
