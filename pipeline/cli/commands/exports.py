"""Exports: clips for other models to predict, videos for other benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import Count, Split, check_folder_to_write, check_options
from pipeline.cli.commands.evaluation import Rate
from pipeline.cli.console import failures_explained, out

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A new or an empty folder.")]


@failures_explained()
def prompts(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="STORE", help="A key, STAGE, STAGE/KEY, or a run.")
    ],
    folder: Folder,
    split: Annotated[str | None, typer.Option(help="train, val or test. Default: val.")] = None,
    clips: Annotated[
        int | None, typer.Option(metavar="N", help="So many at most, evenly spread.")
    ] = None,
) -> None:
    """Write clips as prompts: first frame, actions, text, camera, rate and size.

    Other models predict videos from these; `roboscape score` scores them. Without
    --split, an evaluation (or a run that has one) gives the clips that it scored.
    README.txt explains every file.

    [bold]Examples[/bold]
    roboscape export prompts clip prompts/
    roboscape export prompts evaluation prompts/     the very clips it scored
    roboscape export prompts 20261128-1015 prompts/ --split test --clips 20
    """
    from pipeline.cli import export

    check_options(split=(split, Split), clips=(clips, Count))
    check_folder_to_write(folder, "OUT")
    export.export_prompts(what, folder, split, clips, context.obj, out)


@failures_explained()
def worldarena(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="VIDEOS", help="An evaluation, a run, scored videos, or a folder or CSV."
        ),
    ],
    folder: Folder,
    clips: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Clips of a folder of videos. Default: the newest."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model, for its folder.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Frames per second, instead of what the videos say."),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="BLACK WHITE", help="Of .npz files with floats: 0 1, or -1 1."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out videos that cannot be used.")
    ] = False,
) -> None:
    """Write videos and their true ones in the layout of WorldArena's scripts.

    One folder per model, NAME_sort/TASK_episode_N.mp4, the true videos and first
    frames, and summary.json with gt_path, image and prompt. index.csv says which
    video is which clip. Videos have their clips' times and size.

    [bold]Examples[/bold]
    roboscape export worldarena evaluation arena/
    roboscape export worldarena irasim_videos/ arena/ --clips clip --name irasim
    """
    from pipeline.cli import export

    check_options(rate=(rate, Rate))
    check_folder_to_write(folder, "OUT")
    videos = export.Videos(
        what=what, clips=clips, name=name, rate_hz=rate, value_range=value_range, skip_bad=skip_bad
    )
    export.export_worldarena(videos, folder, context.obj, out)
