"""`roboscape weights`: lists the published weights and which are here, and fetches the others."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from storage.errors import StoreError
from storage.weights.catalogue import PUBLISHED, PublishedWeights, find_published, megabytes
from storage.weights.download import download
from storage.weights.folder import (
    Basis,
    WeightsRecord,
    how_to_get,
    read_records,
    resolve_weights,
    write_record,
)

TERMS = (
    "does not allow commercial use. What is made with these weights is marked non-commercial in "
    "its lineage, and so is what is made from that, such as a world model trained on their labels."
)
COMPARED: dict[Basis, str] = {
    "published": "as published",
    "server": "as its publisher's server stated",
    "first use": "as first seen: no digest is published",
}
DIGITS = 12  # of a digest, in tables


def print_weights(folder: Path, out: Console, as_json: bool = False) -> None:
    """Reads names, sizes and records only; `fetch` also checks the digest of a file."""
    records = read_records(folder)
    if as_json:
        out.print_json(json.dumps([entry(w, records.get(w.name), folder) for w in PUBLISHED]))
        return
    table = Table(
        box=None,
        pad_edge=False,
        title=escape(f"weights in {folder}"),
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
    n_bytes = path.stat().st_size
    published = weights.size if weights.exact else n_bytes
    if n_bytes != (record.size if record else published):
        return f"[red]wrong size[/red]\n[dim]{n_bytes} bytes[/dim]"
    if record is None:
        return "not noted yet"
    return f"[green]{record.sha256[:DIGITS]}[/green]\n[dim]{record.basis}[/dim]"


def entry(weights: PublishedWeights, record: WeightsRecord | None, folder: Path) -> dict[str, Any]:
    """One row of `roboscape weights list --json`. noted: its record in `weights.json`."""
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
    """Fetches one after the other, even after a failure; returns the names that are not here.

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
        out.print(f"Not fetched: {', '.join(missing)}.", markup=False)
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
    """Fetches the file, or checks the one that is there; returns False if it is not here.

    Prints the licence first; where it forbids commercial use, fetches only with `yes` or if
    `confirm` answers yes. Raises LookupError for an unknown name, WeightsError for another file in
    its place, DownloadError if it cannot be had.
    """
    weights = find_published(name)
    path = folder / weights.file
    about = f"{weights.about}, {weights.size_text}, licence {weights.licence}, {weights.page}"
    out.print(f"[bold]{name}[/bold]: {about}")
    if weights.non_commercial:
        out.print(f"[yellow]{weights.licence} {TERMS}[/yellow]")
    if path.is_file():
        ref = resolve_weights(name, folder, report=lambda _: None)
        record = read_records(folder).get(name)  # none where the folder cannot be written
        unnoted: Basis = "published" if weights.sha256 else "first use"
        basis = record.basis if record else unnoted
        out.print(f"{path} is there. SHA-256 {ref.sha256}, {COMPARED[basis]}", markup=False)
        return True
    if not weights.url:
        out.print(how_to_get(weights, folder).strip(), markup=False)
        return False
    if weights.non_commercial and not yes and not confirm("Fetch them under these terms?"):
        out.print("Not fetched.")
        return False
    size = weights.size if weights.exact else None
    done = download(
        weights.address(hub), path, sha256=weights.sha256, size=size, token=weights.on_hub
    )
    write_record(weights, folder, done.sha256, done.basis)
    out.print(
        f"{path}, {megabytes(done.size)}. SHA-256 {done.sha256}, {COMPARED[done.basis]}",
        markup=False,
    )
    return True
