"""Evaluation: scores of several world models side by side, and studies."""

from pathlib import Path
from typing import Annotated

import typer
from annotated_types import Ge

from pipeline.cli.checks import check_backend, check_folder_to_write, check_options
from pipeline.cli.console import FAILED, failures_explained, out
from pipeline.cli.options import Backend, Source


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


@failures_explained()
def study(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="See `roboscape studies`.")],
    scale: Annotated[
        str, typer.Option(help="smoke (minutes), demo (two cores), paper (GPUs, AGIBOT-World).")
    ] = "demo",
    source: Source = None,
    variant: Annotated[
        list[str],
        typer.Option("--variant", help="Only this variant; may be repeated. Default: all."),
    ] = [],  # noqa: B006  (typer copies it)
    at_once: Annotated[
        int | None, typer.Option(help="Runs at once. Default: as many as there are cores for.")
    ] = None,
    backend: Backend = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show the runs, what they share, and the cost.")
    ] = False,
) -> None:
    """Run a study: an experiment in variants and seeds, and a report on its claims.

    Stages that variants share are made once. A run that fails does not end the
    others. The same command resumes: runs that are complete are not started.
    Each is a subflow in Prefect, and can be run again alone with the command that
    the report names.

    Writes report.md, report.json, scores.csv and pictures to
    <workspace>/studies/NAME-SCALE. Exit code 1 if a run is missing.

    [bold]Examples[/bold]
    roboscape study ablations --scale demo --plan
    roboscape study ablations --scale paper --source /data/AgiBotWorld-Beta
    """
    from pipeline.cli.study import Request, drive_study
    from pipeline.experiments.studies.catalogue import named_study
    from pipeline.experiments.studies.study import Scale

    check_backend(backend)
    check_options(scale=(scale, Scale), at_once=(at_once, Annotated[int, Ge(1)]))
    chosen = named_study(name)
    request = Request(
        study=chosen.only(variant) if variant else chosen,
        scale=scale,  # type: ignore[arg-type]
        source=source or "",
        at_once=at_once,
        backend=backend,
    )
    if not drive_study(request, context.obj, out, only_plan=plan):
        raise SystemExit(FAILED)


@failures_explained()
def studies() -> None:
    """List the studies: what each varies, and which claims it settles."""
    from pipeline.experiments.studies.catalogue import STUDIES

    for each in STUDIES.values():
        out.print(f"[bold]{each.name}[/bold]  {each.question}")
        for variant in each.variants:
            out.print(f"    {variant.name}: {variant.about}", markup=False)
        for claim in each.claims:
            out.print(f"  ? {claim.text}", markup=False)
