"""What the stages that make a tokenizer share: `TrainTokenizer` and `PublishedTokenizer`."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from model.training.device import DeviceName
from stages.base import DatasetStage, Inputs, Resources
from stages.tokenizer.images import READS, Source


@dataclass(frozen=True, kw_only=True)
class TokenizerStage(DatasetStage):
    """Makes the tokenizer of one kind of image, and measures it on clips of the `val` split."""

    source: Source
    n_val_clips: Annotated[int, Ge(1)] = 8
    # None: a GPU where there is one
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False}
    )

    @property
    def name(self) -> str:
        return f"{self.source}_tokenizer"

    @property
    def inputs(self) -> Inputs:
        role, arrays = READS[self.source]
        return {"discover": ("split",), role: arrays}
