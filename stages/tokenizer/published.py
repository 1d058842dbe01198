"""A published MAGVIT-2 checkpoint -> the tokenizer of one kind of image, measured on the clips that
it is for.

It stands where `TrainTokenizer` stands and leaves the same `tokenizer.safetensors`, with a picture
and a page of what is lost: published tokenizers have not seen these cameras, nor depth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from model.magvit2.config import MagvitConfig, one_x, tencent
from model.magvit2.published import Weights, load_published
from model.training.checkpoint import save_model
from model.training.device import pick_device
from stages.base import DatasetStage, Inputs, Progress, Resources
from stages.batches import fingerprint
from stages.drawing.markdown import markdown_table
from stages.tokenizer.images import READS, Source
from stages.tokenizer.measure import (
    PICTURE_FILE,
    TOKENIZER_FILE,
    held_out_frames,
    reconstruction_picture,
    scores,
)
from stages.training.run import NOTE_FILE
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.stores.results import Result, ResultWriter
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef

Layout = Literal["1x", "tencent"]
# Both files hold raw and averaged weights of the same shapes, so that a wrong choice would show in
# the pictures alone: 1X's tokens come from the raw ones, TencentARC's own code runs the average.
LAYOUTS: dict[Layout, tuple[MagvitConfig, Weights]] = {
    "1x": (one_x(), "raw"),
    "tencent": (tencent(), "ema"),
}


@dataclass(frozen=True, kw_only=True)
class PublishedTokenizer(DatasetStage):
    """Takes a published tokenizer as it is, for RGB or for inverse depth (the paper uses one for
    both).
    """

    source: Source
    weights: WeightsRef
    layout: Layout
    n_val_clips: int = 8  # of the `val` split: those that it is measured on
    # None: a GPU where there is one
    device: str | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False}
    )

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: expected one of {list(LAYOUTS)}")

    @property
    def name(self) -> str:
        return f"{self.source}_tokenizer"

    @property
    def model(self) -> MagvitConfig:
        return LAYOUTS[self.layout][0]

    @property
    def inputs(self) -> Inputs:
        role, arrays = READS[self.source]
        return {"discover": ("split",), role: arrays}

    def run(
        self,
        rows: Mapping[str, Rows],
        results: Mapping[str, Result],
        out: ResultWriter,
        progress: Progress,
    ) -> dict[str, float]:
        config, which = LAYOUTS[self.layout]
        model = load_published(self.weights.resolve(), config, which).to(pick_device(self.device))
        progress(1, 3, "loaded")
        held_out = held_out_frames(self.source, rows, self.n_val_clips).to(pick_device(self.device))
        numbers = {f"val/{name}": value for name, value in scores(model, held_out).items()}
        progress(2, 3, "measured")
        title = f"{self.weights.name} on {self.source} frames"
        write_file(
            out.path / PICTURE_FILE, reconstruction_picture(self.source, model, held_out, title)
        )
        write_file(out.path / NOTE_FILE, self.note(numbers).encode())
        card = {
            "source": self.source, "image_size": list(held_out.images.shape[-2:]), "data": fingerprint(rows),
            "published": self.weights, "layout": self.layout, "weights": which, "numbers": numbers,
        }  # fmt: skip
        save_model(out.path / TOKENIZER_FILE, model, config, card=parameters(card))
        progress(3, 3)
        return numbers

    def note(self, numbers: Mapping[str, float]) -> str:
        """A page in Markdown: what it is, and what it loses on these frames."""
        which = {"raw": "the raw weights", "ema": "the averaged weights"}[LAYOUTS[self.layout][1]]
        rows = [(name, f"{value:.4g}") for name, value in numbers.items()]
        table = markdown_table(("held-out clips", ""), rows)
        return f"# {self.weights.name}, {which}, not trained here\n\n{table}\n"
