"""A published MAGVIT-2 checkpoint -> a tokenizer, measured on this data set's clips.

It takes the place of `TrainTokenizer` and writes the same `tokenizer.safetensors`, with a picture
and a page of what is lost: published tokenizers have not seen these cameras, nor depth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig, one_x, tencent
from model.magvit2.published import Weights, load_published
from model.training.checkpoint import save_model
from model.training.device import pick_device
from stages.base import InputResults, InputRows, Progress
from stages.batches import fingerprint
from stages.drawing.markdown import markdown_table
from stages.tokenizer.measure import (
    PICTURE_FILE,
    TOKENIZER_FILE,
    held_out_frames,
    reconstruction_picture,
    reconstruction_scores,
)
from stages.tokenizer.stage import TokenizerStage
from stages.training.disk_use import FLOAT, REPORT_BYTES, parameter_count
from stages.training.result import NOTE_FILE
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.stores.results import ResultWriter
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef

Layout = Literal["1x", "tencent"]
# Both files hold raw and averaged weights of the same shapes, so a wrong choice would only show in
# the pictures. 1X's tokens come from the raw weights, TencentARC's own code runs the average.
LAYOUTS: dict[Layout, tuple[MagvitConfig, Weights]] = {
    "1x": (one_x(), "raw"),
    "tencent": (tencent(), "ema"),
}


@dataclass(frozen=True, kw_only=True)
class PublishedTokenizer(TokenizerStage):
    """A published tokenizer, unchanged, for RGB or inverse depth (the paper uses one for both)."""

    weights: WeightsRef
    layout: Layout

    version: ClassVar[int] = 1

    def disk_use(self, n_clips: int) -> DiskUse:
        n_parameters = parameter_count(lambda: MagvitTokenizer(LAYOUTS[self.layout][0]))
        return DiskUse(kept=FLOAT * n_parameters + REPORT_BYTES, inodes=10)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: expected one of {list(LAYOUTS)}")

    @property
    def model(self) -> MagvitConfig:
        return LAYOUTS[self.layout][0]

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        config, which = LAYOUTS[self.layout]
        device = pick_device(self.device)
        model = load_published(self.weights.resolve(), config, which).to(device)
        progress(1, 3, "loaded")
        held_out = held_out_frames(self.source, rows, self.n_val_clips).to(device)
        scores = reconstruction_scores(self.source, model, held_out)
        numbers = {f"val/{name}": value for name, value in scores.items()}
        progress(2, 3, "measured")
        title = f"{self.weights.name} on {self.source} frames"
        picture = reconstruction_picture(self.source, model, held_out, title)
        write_file(out.path / PICTURE_FILE, picture)
        write_file(out.path / NOTE_FILE, self.note(numbers).encode())
        card = {
            "source": self.source,
            "image_size": list(held_out.images.shape[-2:]),
            "data": fingerprint(rows),
            "published": self.weights,
            "layout": self.layout,
            "weights": which,
            "numbers": numbers,
        }
        save_model(out.path / TOKENIZER_FILE, model, config, card=parameters(card))
        progress(3, 3)
        return numbers

    def note(self, numbers: Mapping[str, float]) -> str:
        """A Markdown page: what it is, and its metrics on these frames."""
        which = {"raw": "the raw weights", "ema": "the averaged weights"}[LAYOUTS[self.layout][1]]
        rows = [(name, f"{value:.4g}") for name, value in numbers.items()]
        table = markdown_table(("held-out clips", ""), rows)
        return f"# {self.weights.name}, {which}, not trained here\n\n{table}\n"
