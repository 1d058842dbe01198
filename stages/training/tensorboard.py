"""A training's numbers and pictures as TensorBoard event files: `tensorboard --logdir <folder>`
shows them.
"""

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
    """One attempt's events. A run that goes on from step n hides what an attempt before wrote of
    later steps.
    """

    def __init__(self, folder: Path, after_step: int):
        # Files are read in the order of their names, which by themselves tell seconds apart, not
        # attempts.
        suffix = f".{time.time_ns()}"
        self.writer = SummaryWriter(
            str(folder / EVENTS),
            purge_step=after_step + 1,
            flush_secs=FLUSH_S,
            filename_suffix=suffix,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name.replace(" ", "_"), value, step)  # it allows no spaces

    def picture(self, step: int, name: str, png: bytes) -> None:
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()
