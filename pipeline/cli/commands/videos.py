"""Videos of any model: their scores, the clips to predict, and the layout of a benchmark."""

from pathlib import Path
from typing import Annotated

import typer
from annotated_types import Interval

from pipeline.cli.checks import Count, Split, check_folder_to_write, check_options
from pipeline.cli.console import failures_explained, out

Rate = Annotated[float, Interval(gt=0, le=10_000)]
GivenRate = Annotated[
    float | None,
    typer.Option("--rate", metavar="HZ", help="Frames per second, instead of what the videos say."),
]
GivenRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--value-range", metavar="BLACK WHITE", help="Of .npz files with floats: 0 1, or -1 1."
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out videos that cannot be used.")]
Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A new or an empty folder.")]


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
        str | None,
        typer.Option(help="Of the model, in the tables. Default: the folder's or CSV's."),
    ] = None,
    rate: GivenRate = None,
    value_range: GivenRange = None,
    skip_bad: SkipBad = False,
    depth_annotator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also compare the depth that it sees: vda-tiny."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of networks, cpu or cuda. Default: a GPU if there is one.")
    ] = None,
) -> None:
    """Score videos of any model against the clips that they are of.

    Writes a store with a page, tables and pictures: PSNR, SSIM, LPIPS and FVD if
    their weights are there, and objects of simulated episodes, with the copy of
    the first frame beside it. Needs no service.

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
    from stages.scoring.videos import default_name

    check_options(rate=(rate, Rate), device=(device, DeviceName))
    request = scoring.Request(
        videos=videos, clips=clips, name=default_name(videos) if name is None else name,
        rate_hz=rate, value_range=value_range, skip_bad=skip_bad,
        depth_annotator=depth_annotator, device=device,
    )  # fmt: skip
    scoring.score(request, context.obj, out)


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
    rate: GivenRate = None,
    value_range: GivenRange = None,
    skip_bad: SkipBad = False,
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
