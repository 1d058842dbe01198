"""A stage's progress: a bar on the terminal and an artifact in Prefect."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PRINT_EVERY_S = 15.0  # where there is no terminal for the bar
ARTIFACT_AFTER_S = 5.0  # a stage that ends sooner needs no artifact
ARTIFACT_EVERY_S = 2.0


class StageProgress:
    """A stage's `progress` callback; a context manager around the stage's work.

    follow: called after every report, for example to update the stage's live page.
    """

    def __init__(self, name: str, follow: Callable[[], None] | None = None):
        self.name, self.follow = name, follow
        self.bar = Progress(
            TextColumn("[bold]{task.description:<17}"), BarColumn(40), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=sys.stderr), disable=not sys.stderr.isatty(), transient=False,
        )  # fmt: skip
        self.task = self.bar.add_task(name, total=None, note="")
        self.started = self.sent = self.printed = time.monotonic()
        self.artifact = ""

    def __enter__(self) -> "StageProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.bar.update(self.task, completed=done, total=total, note=note)
        now = time.monotonic()
        if self.bar.disable and now - self.printed > PRINT_EVERY_S:
            print(f"{self.name}: {done}/{total} {note}", file=sys.stderr, flush=True)
            self.printed = now
        due = now - self.sent > ARTIFACT_EVERY_S or done == total
        if due and now - self.started > ARTIFACT_AFTER_S:
            self.sent = now
            self.send(100.0 * done / max(total, 1), note)
        if self.follow is not None:
            self.follow()

    def send(self, percent: float, note: str) -> None:
        """Updates the artifact, in a task run; a failing server must not stop the work."""
        # Prefect takes 2 s to import, which the paths without it need not wait for
        from pipeline.lineage import artifacts
        from pipeline.lineage.reach import PrefectGone

        if artifacts.here().task_run is None:
            return
        text = note or self.name
        try:
            if self.artifact:
                artifacts.update(self.artifact, percent, text)
            else:
                key = f"progress-{self.name.replace('_', '-')}"
                self.artifact = artifacts.create("progress", percent, key=key, description=text)
        except PrefectGone:  # the gate has said so
            self.sent = float("inf")
        except Exception as error:
            print(f"{self.name}: no more progress in Prefect: {error}", file=sys.stderr)
            self.sent = float("inf")
