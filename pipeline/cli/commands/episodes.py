"""Episodes: simulated ones, in the layout of the real ones."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import Processes, check_folder_to_write, check_options
from pipeline.cli.console import failures_explained, out


@failures_explained()
def sample(
    context: typer.Context,
    root: Annotated[
        Path | None,
        typer.Argument(help="Folder. Default: <workspace>/sample; with --demo, sample-demo."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="How many. Default: 100; with --demo, 30.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Other seeds give other episodes.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Frames per second. Default: 30, as in AGIBOT-World.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Size in pixels. Default: 640x480, as in AGIBOT-World."),
    ] = None,
    camera_motion: Annotated[
        float | None,
        typer.Option(
            help="How much the head camera sways: 0 stays still (default), 1 is a typical head "
            "(some cm, a few degrees). Takes three times as long."
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="The demo's set: 10 fps, 256x192; takes 2 minutes.")
    ] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="Add episodes with deliberate faults.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
) -> None:
    """Simulate dual-arm episodes with ground truth, in AGIBOT-World's layout.

    Episodes that are there already are kept, so an interrupted command resumes.

    [bold]Examples[/bold]
    roboscape sample --demo
    roboscape sample my-episodes --episodes 20 --size 320x240
    roboscape sample swaying --demo --camera-motion 1
    roboscape run demo --source my-episodes
    """
    from pipeline.cli.sample import make, sample_config
    from pipeline.experiments.field_values import hints
    from simulation.config import SampleConfig

    ranges = hints(SampleConfig)
    check_options(
        episodes=(episodes, ranges["n_episodes"]), seed=(seed, ranges["seed"]),
        rate=(rate, ranges["rate_hz"]), workers=(workers, Processes),
        camera_motion=(camera_motion, ranges["camera_motion"]),
    )  # fmt: skip
    check_folder_to_write(root, "ROOT")
    config = sample_config(
        demo=demo, n_episodes=episodes, seed=seed, rate_hz=rate, size=size,
        camera_motion=camera_motion, faults=faults,
    )  # fmt: skip
    default = context.obj.sample("demo") if demo else context.obj.home / "sample"
    make(root or default, config, workers, out.print, space_check=context.obj.space_check)
