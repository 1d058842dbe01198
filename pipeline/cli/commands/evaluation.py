"""Evaluation: scores of several world models side by side."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import check_folder_to_write
from pipeline.cli.console import failures_explained, out


@failures_explained()
def compare(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]STORE...",
            help="Two or more: a run's id, an evaluation's key, or that of scored videos.",
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write. Default: one in <workspace>/comparisons."),
    ] = None,
) -> None:
    """Compare evaluations clip by clip: differences, their intervals, curves, pictures.

    Everything is compared with the first one, on the clips that all were scored
    on. Intervals are 95 % bootstrap intervals over episodes. Baselines (copies of
    a frame, the tokenizer's ceiling) stand in every table.

    Writes comparison.md, .csv and .json, horizon.png (quality over time) and
    clips.png (the clips that differ most), and a page in Prefect if it is up.

    [bold]Examples[/bold]
    roboscape compare full=20261128-1015 no-depth=20261128-1130
    roboscape compare ours=evaluation/3f2a irasim=score/81bc
    """
    from pipeline.cli.compare import write_comparison

    check_folder_to_write(folder, "--out")
    write_comparison(what, context.obj, out, folder)
