"""Trainings on their own: a small annotator, the world model by torchrun, a saved state."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import check_file_to_write
from pipeline.cli.console import failures_explained, out
from pipeline.cli.options import Backend, Set, Source, make_request


@failures_explained()
def train_annotator(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="vda-tiny (depth) or spatracker-tiny (keypoints).")],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Root of simulated episodes with ground truth. Default: 200 of its own.",
        ),
    ] = None,
    set_: Set = [],  # noqa: B006  (typer copies it)
    backend: Backend = None,
) -> None:
    """Train a small annotator on the exact labels of simulated episodes.

    It takes about an hour on one core; a GPU is used if there is one. After an
    interruption the same command resumes from the last saved step. At the end it
    prints the paths of the weights, of their scores on held-out clips, and of
    pictures.

    [bold]Examples[/bold]
    roboscape train-annotator spatracker-tiny
    roboscape train-annotator vda-tiny --set annotator.training.steps=500
    """
    from pipeline.cli.run import drive
    from pipeline.experiments.annotator_training import NAMES

    if name not in NAMES:
        raise ValueError(f"no annotator '{name}' to train; there is: {', '.join(NAMES)}")
    request = make_request(name, source, set_, backend)
    drive(request, context.obj, out)


@failures_explained()
def train_spec(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="File to write, such as training.json.")],
    experiment: Annotated[str, typer.Option(help="A named configuration.")] = "demo",
    source: Source = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Write the file from which torchrun trains the world model.

    The stages before the training must be complete. Prints the torchrun command.

    [bold]Example[/bold]
    roboscape train-spec training.json --set world_model.workers=8
    torchrun --nproc-per-node 8 -m stages.world_model.torchrun training.json
    """
    from pipeline.cli.train_spec import write_spec

    check_file_to_write(path, "PATH")
    spec = write_spec(make_request(experiment, source, set_), context.obj, path)
    workers = spec.stage.workers
    out.print(
        f"torchrun --standalone --nproc-per-node {workers} -m stages.world_model.torchrun {path}",
        markup=False,
    )


@failures_explained()
def checkpoint(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="File to write, such as now.safetensors.")],
    training: Annotated[
        str, typer.Option(metavar="STORE", help="Its store: a key, STAGE or STAGE/KEY.")
    ] = "world_model",
    best: Annotated[
        bool, typer.Option("--best", help="The state of least held-out loss, not the newest.")
    ] = False,
) -> None:
    """Write a checkpoint of a world model that is still training, or stopped.

    Use it in `roboscape generate`, or start another training from its weights:
    for example at a lower learning rate, after the loss became NaN.

    [bold]Examples[/bold]
    roboscape checkpoint now.safetensors
    roboscape generate now.safetensors 12
    roboscape run demo --set world_model.start_from=now.safetensors
    """
    from pipeline.cli.checkpoint import write_checkpoint

    check_file_to_write(path, "PATH")
    out.print(write_checkpoint(training, path, context.obj.stores, best), markup=False)
