"""Evaluation: scores of any model's videos, and several models side by side."""

from pathlib import Path
from typing import Annotated

import typer
from annotated_types import Interval

from pipeline.cli.checks import check_folder_to_write, check_options
from pipeline.cli.console import failures_explained, out

Rate = Annotated[float, Interval(gt=0, le=10_000)]


@failures_explained()
def score(
    context: typer.Context,
    videos: Annotated[
        Path, typer.Argument(help="A folder of videos named by clip id, or a CSV that lists them.")
    ],
    clips: Annotated[
        str,
        typer.Option(metavar="STORE", help="Their clips: a key, STAGE, STAGE/KEY, or a run."),
    ] = "clip",
    name: Annotated[
        str | None, typer.Option(help="Of the model, in the tables. Default: the folder's.")
    ] = None,
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
    device: Annotated[
        str | None, typer.Option(help="For LPIPS, cpu or cuda. Default: a GPU if there is one.")
    ] = None,
) -> None:
    """Score videos of any model against the clips that they are of.

    Writes a store with a page, tables and pictures: PSNR, SSIM, LPIPS if its
    weights are there, and objects of simulated episodes, with the copy of the
    first frame beside it. Needs no service.

    A video is CLIP_ID.mp4 (mov, mkv, webm, avi), .gif, .npz, or a folder
    CLIP_ID of PNG or JPEG frames. A CSV has the columns clip_id and path, and
    seed or variant if there are several of a clip: seeds are averaged, variants
    are methods of their own. Frame 0 is the given one and never scored.

    Frames are matched by time, the nearest one, and shrunk to the clips' size.
    GIF and video files say their rate; .npz and folders need --rate, unless
    they have the clips' number of frames. What cannot be used is an error; with
    --skip-bad the others are scored. Clips without a video and videos without a
    clip are counted and named on the page.

    [bold]Examples[/bold]
    roboscape export prompts clip prompts/
    roboscape score irasim_videos/ --clips clip --name irasim
    roboscape score list.csv --clips clip/3f2a --name cogvideox --rate 8
    """
    from model.training.device import DeviceName
    from pipeline.cli import score as scoring

    check_options(rate=(rate, Rate), device=(device, DeviceName))
    request = scoring.Request(
        videos=videos, clips=clips, name=videos.absolute().stem if name is None else name,
        rate_hz=rate, value_range=value_range, skip_bad=skip_bad, device=device,
    )  # fmt: skip
    scoring.score(request, context.obj, out)


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
    roboscape compare ours=evaluation/3f2a irasim=scoring/81bc
    """
    from pipeline.cli.compare import write_comparison

    check_folder_to_write(folder, "--out")
    write_comparison(what, context.obj, out, folder)
