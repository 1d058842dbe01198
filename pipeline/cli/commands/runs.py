"""Runs: start one, run a stage of it again, see where it stands."""

from typing import Annotated

import typer

from pipeline.cli.checks import Share, check_backend, check_options
from pipeline.cli.console import FAILED, failures_explained, out
from pipeline.cli.options import Backend, Set, Source, make_request


@failures_explained()
def run(
    context: typer.Context,
    experiment: Annotated[
        str, typer.Argument(help="A named configuration: see `roboscape experiments`.")
    ] = "demo",
    source: Source = None,
    set_: Set = [],  # noqa: B006  (typer copies it)
    backend: Backend = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make every stage again, also complete ones.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what would be made, and why.")
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Share of a stage's clips that may raise an error.")
    ] = 0.01,
) -> None:
    """Run an experiment, from raw episodes to the evaluation.

    Complete stages are reused, and a stage that was interrupted resumes.

    [bold]Examples[/bold]
    roboscape run demo
    roboscape run paper --source /data/AgiBotWorld-Beta
    roboscape run demo --set world_model.training.steps=500 --plan
    """
    check_options(max_error_share=(max_error_share, Share))
    request = make_request(experiment, source, set_, backend, max_error_share=max_error_share)
    if plan:
        from pipeline.cli.plan import print_plan

        print_plan(request, context.obj, out)
        return
    from pipeline.cli.run import drive

    drive(request | {"force": force}, context.obj, out)


@failures_explained()
def rerun(
    context: typer.Context,
    stage: Annotated[str, typer.Argument(help="Name of the stage: depth, world_model, ...")],
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Run id or unique prefix. Default: the latest."),
    ] = None,
    and_after: Annotated[
        bool, typer.Option("--and-after", help="Also the stages made from it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make it again, even if it is complete.")
    ] = False,
    backend: Backend = None,
) -> None:
    """Run one stage of an earlier run again.

    Only what is missing in it is made, and nothing before it, unless files of
    the episodes have changed since. Experiment, episodes and parameters are
    those of the earlier run.

    [bold]Examples[/bold]
    roboscape rerun depth
    roboscape rerun depth --and-after
    roboscape rerun world_model --run 20250131-1 --force
    """
    from pipeline.cli.run import drive
    from pipeline.orchestration.journal import find_journal
    from pipeline.orchestration.plan import stages_to_rerun

    check_backend(backend)
    journal = find_journal(context.obj.runs, run)
    stages, note = stages_to_rerun(journal, context.obj, stage, and_after)
    if note:
        out.print(note, markup=False)
    changes = {"stages": stages, "force": force} | ({"backend": backend} if backend else {})
    drive(journal.request | changes, context.obj, out)


@failures_explained()
def status(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="Run id or unique prefix. Default: the latest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show a run's stages, earlier runs, and the services.

    No server is asked. Exit code 1 if the run failed or crashed.

    [bold]Examples[/bold]
    roboscape status
    roboscape status 20250131-1 --json
    """
    from pipeline.cli.status import print_status

    if print_status(context.obj, run, out, as_json) in ("failed", "crashed"):
        raise SystemExit(FAILED)


@failures_explained()
def publish(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(help="Run id or unique prefix. Default: all runs that lack pages."),
    ] = None,
) -> None:
    """Publish lineage pages that a run could not publish itself.

    A run whose Prefect server dies goes on without it: everything is made and
    kept, only its pages are missing in the UI. This publishes them from the
    stores, and tells Prefect how the run ended. `roboscape status` says which
    run lacks pages. Needs the server: `roboscape up` starts it.

    [bold]Examples[/bold]
    roboscape publish
    roboscape publish 20250131-1
    """
    from pipeline.cli.publish import publish as publish_runs

    if not publish_runs(run, context.obj, out):
        raise SystemExit(FAILED)


def experiments() -> None:
    """List the named experiments.

    [bold]Example[/bold]
    roboscape experiments
    """
    from pipeline.experiments.registry import descriptions

    for name, text in descriptions().items():
        out.print(f"[bold]{name:<19}[/bold] {text}")
