"""A training's numbers and pictures as TensorBoard event files.

Events are written in the caller's thread. tensorboardX's own `SummaryWriter` has a thread for it,
which ends at the first error; after ten more events the training would wait for it for ever.
"""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made at import, so without stubs
    Event,  # type: ignore[reportAttributeAccessIssue]
    SessionLog,  # type: ignore[reportAttributeAccessIssue]
)

EVENTS = "tensorboard"  # folder of the event files
FLUSH_S = 10


class EventFile:
    """One attempt's events. A run resumed at step n hides what an earlier attempt wrote after n.

    Methods raise OSError if the file cannot be written.
    """

    def __init__(self, folder: Path, after_step: int):
        (folder / EVENTS).mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files by name, whose own time stamp has whole seconds only
        self.writer = EventsWriter(str(folder / EVENTS / "events"), f".{time.time_ns()}")
        self.flushed = 0.0
        self._write(after_step + 1, session_log=SessionLog(status=SessionLog.START))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # No spaces are allowed
            self._write(step, summary=summary.scalar(name.replace(" ", "_"), value))

    def picture(self, step: int, name: str, png: bytes) -> None:
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        self.writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self.writer.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() - self.flushed > FLUSH_S:
            self.writer.flush()
            self.flushed = time.monotonic()
