"""The `roboscape` command. Heavy imports wait inside the commands, so that `--help` and `status`
answer at once.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.settings import Settings, apply_environment

FAILED, USAGE, NO_SERVICE, INTERRUPTED = 1, 2, 3, 130  # exit codes; 0 is success

HELP = """Raw robot videos to a trained, evaluated, physics-informed world model (RoboScape, arXiv 2506.23135).

[bold]First steps[/bold]
  roboscape run demo           the whole path on simulated sample episodes
  roboscape status             what ran, what is complete, where results lie
  roboscape ui                 the Prefect UI: graph, progress, lineage pages

[bold]After a failure[/bold]
  roboscape run demo           goes on where the last run stopped
  roboscape rerun depth        makes only what stage 'depth' still lacks

[bold]Networks of others[/bold]
  roboscape weights list       published weights: whose, under which licence, which are here

Everything lies in ./workspace (ROBOSCAPE_HOME). Exit codes: 0 done, 1 a stage failed, 2 usage, 3 a service
does not answer, 130 interrupted."""

app = typer.Typer(
    help=HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights = typer.Typer(
    help="Published weights: list them, fetch them, check them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(weights, name="weights")
out, err = (
    Console(highlight=False, soft_wrap=True),
    Console(stderr=True, highlight=False, soft_wrap=True),
)

Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="One parameter, such as --set keypoints.grid=16, or a maker of labels by its name, such as "
        "--set depth.annotator=vda-tiny. May be repeated.",
    ),
]
Source = Annotated[
    str | None, typer.Option(help="Root of AGIBOT-World episodes. Default: the experiment's own.")
]
Backend = Annotated[
    str | None,
    typer.Option(help="ray (default) or serial, which needs no Ray and gives equal arrays."),
]


@contextmanager
def failures_explained() -> Iterator[None]:
    """Turns what can go wrong into one clear message and an exit code, without a wall of trace."""
    from pipeline.orchestration.services import ServiceError
    from storage.errors import StoreError

    try:
        yield
    except KeyboardInterrupt:
        err.print(
            "\n[yellow]Interrupted.[/yellow] What was finished is kept; the same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None
    except ServiceError as error:
        err.print("[red]Service:[/red]", end=" ")
        err.print(str(error), markup=False)
        raise typer.Exit(NO_SERVICE) from None
    except (LookupError, ValueError) as error:
        err.print("[red]Error:[/red]", end=" ")
        err.print(str(error.args[0] if error.args else error), markup=False)
        raise typer.Exit(USAGE) from None
    except (StoreError, OSError, RuntimeError) as error:
        err.print("[red]Failed:[/red]", end=" ")
        err.print(str(error), markup=False)
        raise typer.Exit(FAILED) from None


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """`a.b=value` strings; a value is JSON where it can be read as such, else text."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or "." not in name:
            raise ValueError(
                f"--set {setting}: expected STAGE.FIELD=VALUE, such as --set keypoints.grid=16"
            )
        try:
            overrides[name] = json.loads(value)
        except ValueError:
            overrides[name] = value
    return overrides


@app.command()
def up() -> None:
    """Start Prefect's server, Ray and the deployment on this machine, where they do not run yet."""
    from pipeline.orchestration import services

    with failures_explained():
        services.up(Settings(), out.print)


@app.command()
def down() -> None:
    """Stop what `up` started. Stores, runs and the server's history stay."""
    from pipeline.orchestration import services

    with failures_explained():
        services.down(Settings(), out.print)


@app.command()
def sample(
    root: Annotated[
        Path | None,
        typer.Argument(
            help="Where to write. Default: <workspace>/sample, or sample-demo with --demo."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="How many. Default: 30 with --demo, else 100.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Other seeds give other episodes.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Frames per second. Default: 30, AGIBOT's own.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT. Default: 640x480, AGIBOT's own.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="The demo's small set: 10 fps, 256x192, 2 minutes.")
    ] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="Add episodes with deliberate faults.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 means one per core.")] = 0,
) -> None:
    """Make simulated dual-arm episodes in AGIBOT-World's exact layout, with ground truth beside
    them.

    Interrupted or repeated, it makes only the episodes that are missing. Run on them with
    `--source`.
    """
    from pipeline.cli.sample import make, sample_config

    with failures_explained():
        config = sample_config(
            demo=demo, n_episodes=episodes, seed=seed, rate_hz=rate, size=size, faults=faults
        )
        make(
            root or (Settings().sample("demo") if demo else Settings().home / "sample"),
            config,
            workers,
            out.print,
        )


@app.command()
def run(
    experiment: Annotated[
        str, typer.Argument(help="A named configuration; `roboscape experiments` lists them.")
    ] = "demo",
    source: Source = None,
    set_: Set = [],  # noqa: B006  (typer copies it)
    backend: Backend = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make every stage again, complete or not.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be made, and why; make nothing.")
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Share of clips that may raise an error.")
    ] = 0.01,
) -> None:
    """Run an experiment from raw episodes to evaluation. Complete stages are cached, half-made ones
    go on.
    """
    with failures_explained():
        request = dict(
            experiment=experiment, source=source or "", overrides=parse_overrides(set_), backend=backend,
            max_error_share=max_error_share,
        )  # fmt: skip
        if plan:
            from pipeline.cli.plan import print_plan

            print_plan(request, out)
            return
        start(request | {"force": force})


@app.command()
def rerun(
    stage: Annotated[str, typer.Argument(help="The stage, such as depth or world_model.")],
    run: Annotated[
        str | None,
        typer.Option("--run", help="Of which run; a unique prefix will do. Default: latest."),
    ] = None,
    and_after: Annotated[
        bool, typer.Option("--and-after", help="Also every stage made from it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make it again even where it is complete.")
    ] = False,
    backend: Backend = None,
) -> None:
    """Run one stage of an earlier run again: only what is missing in it, nothing before it."""
    with failures_explained():
        from pipeline.orchestration.journal import find_journal
        from pipeline.orchestration.plan import stages_after

        earlier = find_journal(Settings().runs, run)
        request = earlier.request | {
            "stages": stages_after(earlier.request, stage, and_after),
            "force": force,
        }
        start(request | ({"backend": backend} if backend else {}))


@app.command("train-annotator")
def train_annotator(
    name: Annotated[str, typer.Argument(help="vda-tiny (depth) or spatracker-tiny (keypoints).")],
    source: Annotated[
        str | None,
        typer.Option(help="Root of simulated episodes with ground truth. Default: 200 of its own."),
    ] = None,
    set_: Set = [],  # noqa: B006
    backend: Backend = None,
) -> None:
    """Train a small annotator on simulated episodes, whose depth and tracks are known exactly.

    About an hour on one core; a GPU is used where there is one. Interrupted, the same command goes
    on from its last saved step. Ends by printing where the weights, their scores on held-out clips
    and pictures lie.
    """
    from pipeline.experiments.annotator_training import NAMES

    with failures_explained():
        if name not in NAMES:
            raise ValueError(f"no annotator '{name}' to train; there is: {', '.join(NAMES)}")
        start(
            dict(
                experiment=name,
                source=source or "",
                overrides=parse_overrides(set_),
                backend=backend,
            )
        )


@app.command("train-spec")
def train_spec(
    path: Annotated[Path, typer.Argument(help="The file to write, such as training.json.")],
    experiment: Annotated[str, typer.Option(help="A named configuration.")] = "demo",
    source: Source = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Write what `torchrun -m stages.world_model.torchrun` trains: the world model from an
    experiment's stores.
    """
    from pipeline.cli.train_spec import write_spec

    with failures_explained():
        request = {
            "experiment": experiment,
            "source": source or "",
            "overrides": parse_overrides(set_),
        }
        spec = write_spec(request, path)
        out.print(
            f"torchrun --standalone --nproc-per-node {spec.stage.workers} -m stages.world_model.torchrun {path}"
        )


@app.command()
def checkpoint(
    path: Annotated[Path, typer.Argument(help="The file to write, such as now.safetensors.")],
    training: Annotated[
        str, typer.Option(help="Its store: a key, a stage or stage/key.")
    ] = "world_model",
    best: Annotated[
        bool, typer.Option("--best", help="The state with the least held-out loss, not the newest.")
    ] = False,
) -> None:
    """Write the newest saved state of a running or stopped training of the world model as a
    checkpoint.

    `roboscape generate FILE CLIP` shows what it has learned so far. `--set
    world_model.start_from=FILE` trains on from its weights in a new result: at another learning
    rate, say, after a loss that was no number.
    """
    from pipeline.cli.checkpoint import write_checkpoint

    with failures_explained():
        out.print(write_checkpoint(training, path, Settings().stores, best), markup=False)


def start(request: dict[str, Any]) -> None:
    """Services up, the sample made if the experiment wants it, the flow run, the results shown."""
    from pipeline.cli.run import drive

    drive(request, out)


@app.command()
def experiments() -> None:
    """List the named experiments and what they are for."""
    from pipeline.experiments.registry import descriptions

    for name, text in descriptions().items():
        out.print(f"[bold]{name:<19}[/bold] {text}")


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(help="A run's id or a unique prefix. Default: the latest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show runs, their stages and the services. Exit code 1 if the run shown failed."""
    from pipeline.cli.status import print_status

    with failures_explained():
        state = print_status(Settings(), run, out, as_json)
    if state in ("failed", "crashed"):
        raise typer.Exit(FAILED)


@app.command()
def lineage(
    what: Annotated[
        str,
        typer.Argument(
            help="A key, a stage, stage/key, or any file in a store (a checkpoint, say)."
        ),
    ],
    parameters: Annotated[
        bool, typer.Option("--parameters", "-p", help="Show every parameter, too.")
    ] = False,
) -> None:
    """Print everything that a store, checkpoint or metric came from, back to the episode files."""
    from pipeline.cli.lineage import print_lineage

    with failures_explained():
        print_lineage(what, Settings().stores, out, parameters)


@app.command()
def ui(
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Print the address of the Prefect UI and open it."""
    from pipeline.orchestration import services

    settings = Settings()
    with failures_explained():
        if not services.prefect_answers(settings):
            raise services.ServiceError(
                f"no Prefect server answers at {settings.api_url}; `roboscape up` starts one"
            )
    out.print(settings.ui_url)
    if open_ and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(settings.ui_url)


@app.command()
def inspect(
    what: Annotated[
        str, typer.Argument(metavar="STORE", help="A key, a stage, stage/key or a folder.")
    ],
    clip: Annotated[str | None, typer.Argument(help="A row number or a clip id.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write a picture of the clip to this PNG.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every checksum; exit code 1 if one is wrong.")
    ] = False,
) -> None:
    """Show what a store holds: arrays, units, counts, rejects; with CLIP, that clip's values."""
    from pipeline.cli.inspect import print_store

    with failures_explained():
        sound = print_store(what, clip, Settings().stores, out, picture=picture, verify=verify)
    if not sound:
        raise typer.Exit(FAILED)


@app.command()
def generate(
    checkpoint: Annotated[
        str, typer.Argument(help="A world_model.safetensors, a key, a stage or stage/key.")
    ],
    clip: Annotated[
        str, typer.Argument(help="A row number or a clip id, of the clips that its card names.")
    ],
    actions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of the clip's: .npy, .csv or .json, (frames, sub-steps?, action)."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="How many, the given one included. Default: one per action.")
    ] = None,
    steps: Annotated[int, typer.Option(help="MaskGIT steps for each new frame.")] = 2,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token; 1 draws as the model thinks.")
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(help="Draw among so many likeliest values of each factor.")
    ] = None,
    order: Annotated[
        str, typer.Option(help="Which cells each step keeps: random or confidence.")
    ] = "random",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write to. Default: one below <workspace>/generated."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: a GPU where there is one.")
    ] = None,
) -> None:
    """Make a video from a clip's first frame: MP4, GIF and a strip, true frames beside predicted
    ones.

    Actions are in the data set's units (AGIBOT: metres, quaternions xyzw, gripper 0 to 1); row t
    leads into frame t, row 0 belongs to the given frame. Past the last action it is held. No
    service has to run.
    """
    with failures_explained():
        from model.world.config import SamplingConfig
        from pipeline.cli import generate as generation

        sampling = SamplingConfig(n_steps=steps, temperature=temperature, top_k=top_k, order=order)  # type: ignore[arg-type]
        request = generation.Request(
            checkpoint=checkpoint, clip=clip, actions=actions, frames=frames, sampling=sampling, seed=seed,
            out=folder, device=device,
        )  # fmt: skip
        generation.generate(request, Settings(), out)


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Really delete; without it, only list.")
    ] = False,
    unused: Annotated[
        bool, typer.Option("--unused", help="Also stores that no run in the journal made or used.")
    ] = False,
    older_than_h: Annotated[float, typer.Option(help="Only what is older, in hours.")] = 24.0,
) -> None:
    """List, or delete, what no store needs: parts of killed workers and temporary files."""
    from pipeline.cli.gc import collect

    with failures_explained():
        collect(Settings(), out, delete=delete, unused=unused, older_than_s=older_than_h * 3600)


@weights.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show every published file that a stage can use, its licence, and whether it is in the weights
    folder.
    """
    from pipeline.cli.weights import print_weights

    with failures_explained():
        print_weights(Settings().weights, out, as_json)


@weights.command("fetch")
def fetch_weights(
    names: Annotated[list[str], typer.Argument(help="Names from `roboscape weights list`.")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the licences without being asked.")
    ] = False,
) -> None:
    """Download published weights into the weights folder and check their SHA-256; check those that
    are there.

    All names are tried. A download that was cut off goes on where it stopped. Exit code 1 if a file
    was not got, or has to be got by hand.
    """
    from pipeline.cli.weights import fetch_all

    settings = Settings()
    with failures_explained():
        missing = fetch_all(
            names, settings.weights, settings.hub, out, err, yes=yes, confirm=agrees
        )
    if missing:
        raise typer.Exit(FAILED)


def agrees(question: str) -> bool:
    """Asks on the terminal; without an answer it is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        out.print("\nNo answer: add --yes if you accept the licence.")
        return False


def main() -> None:
    apply_environment(Settings())
    # Prefect says so at import, also to commands that only look, such as `run --plan` where nothing
    # ran yet.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    app()


if __name__ == "__main__":
    main()
