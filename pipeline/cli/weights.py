"""`roboscape weights`: which published weights there are, which of them lie here, and getting the
others.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from storage.errors import StoreError
from storage.weights.catalogue import (
    DIGITS,
    PUBLISHED,
    Basis,
    PublishedWeights,
    WeightsRecord,
    find_published,
    how_to_get,
    megabytes,
    published,
    read_records,
    write_record,
)
from storage.weights.download import Downloaded, download

TERMS = (
    "does not allow commercial use. What is made with these weights is marked non-commercial in its lineage, and so is "
    "what is made from that, such as a world model trained on their labels."
)
BASES: dict[str, Basis] = {"caller": "published", "server": "server", "nothing": "first use"}
COMPARED: dict[Basis, str] = {
    "published": "as published",
    "server": "as its publisher's server stated",
    "first use": "as first seen: nobody publishes it",
}
LINE_EVERY_S = 15.0  # where there is no terminal for a bar


def print_weights(folder: Path, out: Console, as_json: bool = False) -> None:
    """Reads names, sizes and notes only: `fetch` on a file that is there checks its digest."""
    records = read_records(folder)
    if as_json:
        out.print_json(json.dumps([entry(w, records.get(w.name), folder) for w in PUBLISHED]))
        return
    table = Table(
        box=None,
        pad_edge=False,
        title=f"weights in {folder}",
        title_justify="left",
        title_style="bold",
    )
    for column in ("name, file", "licence, used by", "size", "here"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    for weights in PUBLISHED:
        colour = "yellow" if weights.non_commercial else "default"
        name = f"[bold]{weights.name}[/bold]\n[dim]{weights.file}[/dim]"
        terms = f"[{colour}]{weights.licence}[/]\n[dim]{weights.used_by}[/dim]"
        here = presence(weights, records.get(weights.name), folder)
        table.add_row(name, terms, weights.size_text.replace("about ", "~"), here)
    out.print(table)
    out.print(
        "[yellow]Yellow[/yellow]: not for commercial use. `roboscape weights fetch NAME` gets one.",
        style="dim",
    )


def presence(weights: PublishedWeights, record: WeightsRecord | None, folder: Path) -> str:
    path = folder / weights.file
    if not path.is_file():
        return "[dim]missing[/dim]"
    expected = record.size if record else weights.size if weights.exact else None
    if expected is not None and path.stat().st_size != expected:
        return f"[red]wrong size[/red]\n[dim]{path.stat().st_size} bytes[/dim]"
    return (
        f"[green]{record.sha256[:DIGITS]}[/green]\n[dim]{record.basis}[/dim]"
        if record
        else "not noted yet"
    )


def entry(weights: PublishedWeights, record: WeightsRecord | None, folder: Path) -> dict[str, Any]:
    """One row of `roboscape weights list --json`. `noted`: what `weights.json` has of it."""
    path = folder / weights.file
    return {
        **asdict(weights),
        "non_commercial": weights.non_commercial,
        "path": str(path),
        "present": path.is_file(),
        "noted": asdict(record) if record else None,
    }


def fetch_all(
    names: list[str],
    folder: Path,
    hub: str,
    out: Console,
    err: Console,
    *,
    yes: bool,
    confirm: Callable[[str], bool],
) -> list[str]:
    """Fetches one after the other, whatever becomes of those before; returns the names that were
    not got.

    Raises LookupError for an unknown name, before anything is fetched.
    """
    for name in names:
        find_published(name)
    missing = []
    for name in dict.fromkeys(names):
        try:
            got = fetch(name, folder, hub, out, yes=yes, confirm=confirm)
        except (StoreError, OSError) as error:
            err.print("[red]Failed:[/red]", end=" ")
            err.print(str(error), markup=False)
            got = False
        if not got:
            missing.append(name)
    if missing and len(names) > 1:
        out.print(f"Not fetched: {', '.join(missing)}.")
    return missing


def fetch(
    name: str,
    folder: Path,
    hub: str,
    out: Console,
    *,
    yes: bool = False,
    confirm: Callable[[str], bool],
) -> bool:
    """Gets the file, or checks the one that is there; returns False if it was not got.

    Prints the licence first; where it forbids commercial use, `confirm` must answer yes, or `yes`
    be given. Raises LookupError for an unknown name, WeightsError for another file in its place,
    DownloadError if it cannot be had.
    """
    weights = find_published(name)
    path = folder / weights.file
    out.print(
        f"[bold]{name}[/bold]: {weights.about}, {weights.size_text}, licence {weights.licence}, {weights.page}"
    )
    if weights.non_commercial:
        out.print(f"[yellow]{weights.licence} {TERMS}[/yellow]")
    if path.is_file():
        ref = published(name, folder, say=lambda _: None)
        record = read_records(folder).get(name)
        basis = record.basis if record else "published" if weights.sha256 else "first use"
        out.print(f"{path} is there. SHA-256 {ref.sha256}, {COMPARED[basis]}", markup=False)
        return True
    if not weights.url:
        out.print(how_to_get(weights, folder).strip(), markup=False)
        return False
    if weights.non_commercial and not yes and not confirm("Fetch them under these terms?"):
        out.print("Not fetched.")
        return False
    with DownloadProgress(name) as progress:
        done = get(weights, path, hub, progress)
    basis = BASES[done.compared_with]
    write_record(weights, folder, done.sha256, basis)
    out.print(
        f"{path}, {megabytes(done.size)}. SHA-256 {done.sha256}, {COMPARED[basis]}", markup=False
    )
    return True


def get(
    weights: PublishedWeights, path: Path, hub: str, progress: "DownloadProgress"
) -> Downloaded:
    size = weights.size if weights.exact else None
    return download(
        weights.address(hub), path, sha256=weights.sha256, size=size, on_progress=progress
    )


class DownloadProgress:
    """A bar on the terminal; without one, a line now and then."""

    def __init__(self, name: str):
        self.name = name
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(40), DownloadColumn(), TransferSpeedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
            console=Console(file=sys.stderr), disable=not sys.stderr.isatty(), transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task(name, total=None)
        self.printed = time.monotonic()

    def __enter__(self) -> "DownloadProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, done: int, total: int | None) -> None:
        self.bar.update(self.task, completed=done, total=total)
        if self.bar.disable and time.monotonic() - self.printed > LINE_EVERY_S:
            of = f" of {megabytes(total)}" if total else ""
            print(f"{self.name}: {megabytes(done)}{of}", file=sys.stderr, flush=True)
            self.printed = time.monotonic()
