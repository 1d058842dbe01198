"""Stores: where one came from, what it holds, and which files can be deleted."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import Hours, check_backend, check_file_to_write, check_options
from pipeline.cli.console import FAILED, failures_explained, out
from pipeline.cli.options import Backend


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

    check_file_to_write(picture, "--picture")
    if not print_store(what, clip, context.obj.stores, out, picture=picture, verify=verify):
        raise SystemExit(FAILED)


@failures_explained()
def verify(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="A key, STAGE or STAGE/KEY. Default: all stores."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every byte; without it, sizes and metadata.")
    ] = False,
) -> None:
    """Check that what is stored is what was written.

    Exit code 1 if something is damaged; `roboscape repair` makes it again.

    [bold]Examples[/bold]
    roboscape verify
    roboscape verify depth --full
    """
    from pipeline.cli.verify import print_verified

    if not print_verified(what, context.obj.stores, out, full=full):
        raise SystemExit(FAILED)


@failures_explained()
def repair(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="A key, STAGE or STAGE/KEY. Default: all stores."),
    ] = None,
    backend: Backend = None,
) -> None:
    """Make again what is damaged in a store, and nothing else.

    Every byte is checked. Of clips, only damaged shards are made again; a
    checkpoint or another result as a whole. What was made from it is kept: the
    key is the same.

    [bold]Examples[/bold]
    roboscape repair
    roboscape repair depth/3f2a --backend serial
    """
    from pipeline.cli.repair import repair as repair_stores

    check_backend(backend)
    repair_stores(what, context.obj, out, backend)


@failures_explained()
def delete(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="KEY", help="A key (a prefix will do), STAGE/KEY.")
    ],
    and_after: Annotated[
        bool, typer.Option("--and-after", help="Also the stores made from it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if finished runs of other workspaces used it.")
    ] = False,
) -> None:
    """Delete one store.

    Refused if other stores were made from it, if a live run uses it, or if
    another workspace that shares the stores used it.

    [bold]Examples[/bold]
    roboscape delete depth/3f2a
    roboscape delete 3f2a --and-after
    """
    from pipeline.cli.delete import delete_store

    delete_store(what, context.obj, out, and_after=and_after, force=force)


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

    check_options(older_than_h=(older_than_h, Hours))
    collect(context.obj, out, delete=delete, unused=unused, older_than_s=older_than_h * 3600)
