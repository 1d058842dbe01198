"""A bar on the terminal for commands that work in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stages.base import Progress as OnProgress


@contextmanager
def progress_bar(label: str, console: Console) -> Iterator[OnProgress]:
    """What a stage reports its progress to. Nothing is shown where `console` is no terminal."""
    with Progress(
        TextColumn(f"[bold]{label}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True), disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None, note="")

        def progress(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield progress
