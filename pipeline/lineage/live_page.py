"""A page in the Prefect UI that is updated while a stage trains: numbers, curves and pictures.

It is one artifact, of what the stage has written so far, so this process must see its folder. When
the stage is done, its lineage page takes over.
"""

import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from pipeline.lineage.page import thumbnail
from stages.base import DatasetStage

EVERY_S = 30.0


class LivePage:
    """Updates the page when called, at most every `EVERY_S` seconds."""

    def __init__(self, stage: DatasetStage, folder: Path):
        self.stage, self.folder = stage, folder
        self.looked, self.artifact = time.monotonic(), None
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
        except Exception as error:  # a page must not end a training
            print(f"{self.stage.name}: no live page: {error}", file=sys.stderr)
            self.looked = float("inf")

    def publish(self, page: str) -> None:
        """Sends the page to Prefect, if a task run shows it."""
        from prefect.artifacts import create_markdown_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate
        from prefect.context import TaskRunContext

        if TaskRunContext.get() is None:
            return
        if self.artifact is None:
            key = f"live-{self.stage.name.replace('_', '-')}"
            made: Any = create_markdown_artifact(
                page, key=key, description=f"{self.stage.name}: as it is now"
            )
            self.artifact = UUID(str(made))
        else:
            client: Any = get_client(sync_client=True)
            client.update_artifact(self.artifact, ArtifactUpdate(data=page))
