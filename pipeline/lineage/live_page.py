"""A page in the Prefect UI that is updated while a stage trains: numbers, curves and pictures.

It is one artifact, of what the stage has written so far, so this process must see its folder. When
the stage is done, its lineage page takes over.
"""

import sys
import time
from pathlib import Path

from pipeline.lineage import artifacts
from pipeline.lineage.page import thumbnail
from pipeline.lineage.reach import PrefectGone
from stages.base import DatasetStage

EVERY_S = 30.0


class LivePage:
    """Updates the page when called, at most every `EVERY_S` seconds."""

    def __init__(self, stage: DatasetStage, folder: Path):
        self.stage, self.folder = stage, folder
        self.looked, self.artifact = time.monotonic(), ""
        self.last = ""

    def __call__(self) -> None:
        if time.monotonic() - self.looked < EVERY_S:
            return
        self.looked = time.monotonic()
        try:
            live = self.stage.live_page(self.folder)
            if live is not None and live.text != self.last:
                self.last = live.text
                pictures = [f"![{n}]({thumbnail(png)})" for n, png in live.pictures.items()]
                self.publish("\n\n".join([*pictures, live.text]))
        except PrefectGone:  # the gate has said so
            self.looked = float("inf")
        except Exception as error:  # a page must not end a training
            print(f"{self.stage.name}: no live page: {error}", file=sys.stderr)
            self.looked = float("inf")

    def publish(self, page: str) -> None:
        """Sends the page to Prefect, if a task run shows it."""
        if artifacts.here().task_run is None:
            return
        if self.artifact:
            artifacts.update(self.artifact, page)
            return
        name = self.stage.name
        self.artifact = artifacts.create(
            "markdown",
            page,
            key=f"live-{name.replace('_', '-')}",
            description=f"{name}: as it is now",
        )
