"""A training's numbers and pictures as TensorBoard event files."""

import io
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

EVENTS = "tensorboard"  # folder of the event files
FLUSH_S = 10


class EventFile:
    """One attempt's events. A run resumed at step n hides what an earlier attempt wrote after n."""

    def __init__(self, folder: Path, after_step: int):
        # TensorBoard reads files by name, whose own time stamp has whole seconds only
        suffix = f".{time.time_ns()}"
        self.writer = SummaryWriter(
            str(folder / EVENTS),
            purge_step=after_step + 1,
            flush_secs=FLUSH_S,
            filename_suffix=suffix,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name.replace(" ", "_"), value, step)  # no spaces allowed

    def picture(self, step: int, name: str, png: bytes) -> None:
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()
