"""Stores: where one came from, what it holds, and which files can be deleted."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import FAILED, failures_explained, out


@failures_explained()
def lineage(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="A key, STAGE, STAGE/KEY, or a file in a store.")],
    parameters: Annotated[
        bool, typer.Option("--parameters", "-p", help="Show every parameter, too.")
    ] = False,
) -> None:
    """Show what a store was made from, back to the episode files.

    [bold]Examples[/bold]
    roboscape lineage evaluation
    roboscape lineage world_model/3f2a --parameters
    roboscape lineage path/to/world_model.safetensors
    """
    from pipeline.cli.lineage import print_lineage

    print_lineage(what, context.obj.stores, out, parameters)


@failures_explained()
def inspect(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="STORE", help="A key, STAGE, STAGE/KEY or a folder.")
    ],
    clip: Annotated[str | None, typer.Argument(help="A row number or a clip id.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write a picture of the clip to this file.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every checksum; exit code 1 if one is wrong.")
    ] = False,
) -> None:
    """Show what a store holds, or the values of one clip in it.

    For a store of clips: arrays, units, how many clips were made, which were
    rejected. For a result: its numbers and files.

    [bold]Examples[/bold]
    roboscape inspect depth
    roboscape inspect depth 12 --picture clip.png
    roboscape inspect rgb_tokens --verify
    """
    from pipeline.cli.inspect import print_store

    if not print_store(what, clip, context.obj.stores, out, picture=picture, verify=verify):
        raise SystemExit(FAILED)


@failures_explained()
def gc(
    context: typer.Context,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it, only list.")
    ] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Also stores that no run used.")] = False,
    older_than_h: Annotated[
        float, typer.Option(metavar="HOURS", help="Only what is older than this.")
    ] = 24.0,
) -> None:
    """List or delete files that killed workers left behind.

    Nothing is deleted while a run is alive that has its stores at the same
    place, in this workspace or another. A store that a run of any workspace
    used is not unused, nor is what it was made from.

    [bold]Examples[/bold]
    roboscape gc
    roboscape gc --unused --older-than-h 168 --delete
    """
    from pipeline.cli.gc import collect

    collect(context.obj, out, delete=delete, unused=unused, older_than_s=older_than_h * 3600)
