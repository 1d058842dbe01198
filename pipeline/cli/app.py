"""The `roboscape` command: every subcommand, in the order that `--help` shows them.

What the subcommands run is imported inside them, so that `--help` and `status` answer at once.
"""

import warnings

import typer

from pipeline.cli.checks import check_environment
from pipeline.cli.commands import (
    episodes,
    evaluation,
    generation,
    runs,
    services,
    stores,
    training,
    videos,
    weights,
)
from pipeline.cli.console import INTERRUPTED, TERMINATED, failures_explained
from pipeline.orchestration.interrupts import interrupted_by, sigterm_interrupts
from pipeline.settings import Settings, apply_environment

HELP = """Train a world model on robot videos: from raw episodes to its evaluation.

[bold]First steps[/bold]
  roboscape run demo        run the whole path on simulated episodes
  roboscape status          show the stages of the latest run
  roboscape ui              open the Prefect UI: progress and lineage pages

[bold]After a failure[/bold]
  roboscape run demo        resume: complete stages are reused
  roboscape rerun depth     make only what is missing in one stage

[bold]Own data and weights[/bold]
  roboscape run paper --source /data/AgiBotWorld-Beta
  roboscape weights list    names, licences, and which are downloaded

Everything is written to ./workspace; ROBOSCAPE_HOME names another folder.
Exit codes: 0 success, 1 a stage failed, 2 wrong usage, 3 a service does not
answer, 130 interrupted by Ctrl-C, 143 by SIGTERM.
Method: RoboScape, arXiv:2506.23135."""

app = typer.Typer(
    help=HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(
    help="List and download published weights.", no_args_is_help=True, rich_markup_mode="rich"
)
weights_app.command("list")(weights.list_weights)
weights_app.command("fetch")(weights.fetch_weights)
export_app = typer.Typer(
    help="Write clips for other models, and videos for other benchmarks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
export_app.command("prompts")(videos.prompts)
export_app.command("worldarena")(videos.worldarena)

PANELS = {
    "Runs": {
        "run": runs.run,
        "rerun": runs.rerun,
        "status": runs.status,
        "publish": runs.publish,
        "ui": services.ui,
        "experiments": runs.experiments,
    },
    "Results": {
        "lineage": stores.lineage,
        "inspect": stores.inspect,
        "generate": generation.generate,
        "score": videos.score,
        "compare": evaluation.compare,
        "study": evaluation.study,
        "studies": evaluation.studies,
        "export": export_app,
    },
    "Training": {
        "train-annotator": training.train_annotator,
        "train-spec": training.train_spec,
        "checkpoint": training.checkpoint,
    },
    "Episodes and weights": {"sample": episodes.sample, "weights": weights_app},
    "Services": {"up": services.up, "down": services.down},
    "Stored files": {
        "verify": stores.verify,
        "repair": stores.repair,
        "delete": stores.delete,
        "gc": stores.gc,
    },
}
for panel, commands in PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


@app.callback()
def give_settings(context: typer.Context) -> None:
    context.obj = context.obj or read_settings()


def read_settings() -> Settings:
    """The settings of this process; every command takes them from its context."""
    with failures_explained():
        settings = Settings()
        check_environment(settings)
        return settings


def main() -> None:
    settings = read_settings()
    apply_environment(settings)
    # Prefect warns at import, also where nothing ran yet, as with `run --plan`.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    with sigterm_interrupts():
        try:
            app(obj=settings)
        except SystemExit as end:
            # What comes before a command has begun is caught by Typer, as if it were Ctrl-C
            if end.code == INTERRUPTED and interrupted_by() == "SIGTERM":
                raise SystemExit(TERMINATED) from None
            raise


if __name__ == "__main__":
    main()
