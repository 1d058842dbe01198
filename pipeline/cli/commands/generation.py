"""Generation: a video from a trained world model."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from pipeline.cli.checks import Frames, Seed, check_folder_to_write, check_options
from pipeline.cli.console import failures_explained, out


@failures_explained()
def generate(
    context: typer.Context,
    checkpoint: Annotated[
        str, typer.Argument(help="A world_model.safetensors, a key, STAGE or STAGE/KEY.")
    ],
    clip: Annotated[
        str, typer.Argument(help="Row number or clip id in the clips it was trained with.")
    ],
    actions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Actions instead of the clip's: a .npy, .csv or .json file."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number, with the given one. Default: one per action.")
    ] = None,
    steps: Annotated[int, typer.Option(help="MaskGIT steps per frame.")] = 2,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token; 1 samples from the model.")
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(help="Sample among the k likeliest values of each factor.")
    ] = None,
    order: Annotated[
        str, typer.Option(help="Tokens that a step keeps: random, or by confidence.")
    ] = "random",
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write. Default: a new one in <workspace>/generated."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")
    ] = None,
) -> None:
    """Generate a video from a clip's first frame and actions.

    Writes MP4, GIF and PNG, true frames next to predicted ones. Needs no service.

    Actions have the shape (frames, action) or (frames, sub-steps, action), in the
    data set's units: metres, quaternions xyzw, gripper 0 to 1 in AGIBOT-World.
    Row t leads into frame t; row 0 belongs to the given frame. If there are more
    frames than actions, the last action is held.

    [bold]Examples[/bold]
    roboscape generate world_model 12
    roboscape generate world_model 12 --frames 40
    roboscape generate now.safetensors 12 --actions mine.npy --steps 4
    """
    from model.training.device import DeviceName
    from model.world.config import SamplingConfig
    from pipeline.cli import generate as generation
    from pipeline.experiments.field_values import hints

    ranges = hints(SamplingConfig)
    check_options(
        frames=(frames, Frames), steps=(steps, ranges["n_steps"]), seed=(seed, Seed),
        temperature=(temperature, ranges["temperature"]),
        top_k=(top_k, get_args(ranges["top_k"])[0]),
        order=(order, ranges["order"]), device=(device, DeviceName),
    )  # fmt: skip
    check_folder_to_write(folder, "--out")
    sampling = SamplingConfig(n_steps=steps, temperature=temperature, top_k=top_k, order=order)  # type: ignore[arg-type]
    request = generation.Request(
        checkpoint=checkpoint, clip=clip, actions=actions, frames=frames, sampling=sampling,
        seed=seed, out=folder, device=device,
    )  # fmt: skip
    generation.generate(request, context.obj, out)
