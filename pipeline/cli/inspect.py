"""`roboscape inspect`: what a store holds, on the terminal."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.verify import print_verified_store
from pipeline.lineage.graph import find
from pipeline.lineage.provenance import NON_COMMERCIAL, non_commercial_behind, non_commercial_text
from storage.atomic import write_file
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import Rows, find_row, open_rows


def print_store(
    what: str,
    clip: str | None,
    root: str,
    out: Console,
    picture: Path | None = None,
    verify: bool = False,
) -> bool:
    """Prints the store, and returns False if a checksum is wrong.

    Raises LookupError if there is no such store or clip.
    """
    ref = find(what, root)
    manifest = store.read_manifest(ref)
    complete = store.is_complete(ref)
    state = "complete" if complete else "INCOMPLETE"
    out.print(f"[bold]{escape(manifest.stage)}[/bold] {escape(ref.key)}  {manifest.kind}, {state}")
    out.print(ref.uri, style="dim", markup=False)
    for name, value in manifest.attributes.items():
        if name != NON_COMMERCIAL:
            out.print(f"  {name}: {value}", markup=False)
    for weights in manifest.weights:
        licence = weights.get("licence") or "licence unknown"
        about = f"{weights['name']} {weights['sha256'][:12]}, {licence}"
        out.print(f"  weights: {about}", markup=False)
    if text := non_commercial_text(non_commercial_behind([manifest])):
        out.print(f"  [yellow]non-commercial:[/yellow] {escape(text)}")
    if not complete and manifest.kind == "clips":
        missing = store.missing_shards(ref)
        out.print(
            f"  {len(missing)} of {manifest.n_shards} shards are missing: "
            f"`roboscape rerun {ref.stage}` makes them"
        )
    if manifest.kind == "result" and clip is not None:
        raise LookupError(
            f"{ref} holds files, no clips, so there is no clip '{clip}' in it: leave the clip out, "
            "or name a store of clips such as clip or depth"
        )
    if manifest.kind == "result" and complete:
        print_result(ref, out)
    elif complete or manifest.kind == "clips":
        rows = open_rows(ref, partial=not complete)
        print_clip(rows, clip, out, picture) if clip else print_rows(rows, out)
    return not verify or print_verified_store(ref, out, full=True)


def print_result(ref: StoreRef, out: Console) -> None:
    result = open_result(ref)
    for name, value in result.numbers.items():
        out.print(f"  {name:<32} {value:.6g}", markup=False)
    for name, about in result.files.items():
        out.print(f"  {name:<32} {about['size']:>12,} bytes", style="dim", markup=False)


def print_rows(rows: Rows, out: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("array", "dtype", "axes", "shape", "units", "meaning"):
        table.add_column(column)
    for spec in rows.specs.values():
        table.add_row(
            spec.name,
            spec.dtype,
            " ".join(spec.axes),
            str(list(spec.shape)),
            escape(spec.units),
            escape(spec.about),
        )
    out.print(table)
    out.print(f"{int(rows.ok.sum())} of {rows.n} clips; {len(rows.rejected)} left out")
    for reject in rows.rejected[:10]:
        detail = reject.detail.partition("\n")[0]
        out.print(f"  row {reject.row} {reject.clip_id}: {reject.reason} {detail}", markup=False)


def print_clip(rows: Rows, clip: str, out: Console, picture: Path | None) -> None:
    row = find_row(rows, clip)
    out.print(f"row {row}, clip {rows.clip_ids[row]}", markup=False)
    if not rows.ok[row]:
        out.print(f"left out: {rows.why_rejected(row)}", markup=False)
        return
    arrays = rows.read(list(rows.specs), row)
    for name, array in arrays.items():
        out.print(f"  {name:<20} {describe(array)} {rows.specs[name].units}", markup=False)
    if picture:
        write_picture(arrays, picture)
        out.print(f"wrote {picture}", markup=False)


def describe(array: Any) -> str:
    a = np.asarray(array)
    if a.ndim == 0 or a.dtype.kind not in "iufb":
        return str(array)
    finite = a[np.isfinite(a)] if a.dtype.kind == "f" else a
    span = (
        f"{finite.min():.5g} .. {finite.max():.5g}, mean {finite.mean():.5g}"
        if finite.size
        else "no finite value"
    )
    return f"{a.dtype}{list(a.shape)}  {span}"


def write_picture(arrays: dict[str, np.ndarray], path: Path) -> None:
    """All frames of a video side by side. Raises LookupError if the store holds no pictures."""
    from stages.drawing import pictures

    if "rgb" in arrays:
        frames = arrays["rgb"]
    elif "inverse_depth" in arrays:
        frames = pictures.colour_depth(
            arrays["inverse_depth"], arrays["valid"], arrays["inverse_depth_range"]
        )
    else:
        raise LookupError(
            f"no pictures in this store, only {sorted(arrays)}; use a store of 'clip' or 'depth'"
        )
    write_file(path, pictures.png_bytes(np.concatenate(list(frames), axis=1)))
