"""`roboscape study`: all runs of a study, then its report."""

import time
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.cli.machine import check_room
from pipeline.cli.run import make_sample_if_wanted, print_limits
from pipeline.cli.source import digest_source
from pipeline.cli.study_report import study_report, write_report
from pipeline.experiments import registry
from pipeline.experiments.studies.study import Scale, Study
from pipeline.orchestration import services
from pipeline.orchestration.disk_estimate import require_space
from pipeline.orchestration.study.outcome import Outcome
from pipeline.orchestration.study.planned import StudyPlan, plan_study, room_for
from pipeline.settings import Settings

# An A100's bfloat16 peak, and the share of it that trainings of this size commonly reach
A100_FLOPS, COMMON_MFU = 312e12, 0.4


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of the command. at_once: None is as many runs as the machine has cores for."""

    study: Study
    scale: Scale
    source: str = ""
    at_once: int | None = None
    backend: str | None = None


def drive_study(request: Request, settings: Settings, out: Console, *, only_plan: bool) -> bool:
    """Runs what is missing and writes the report; returns whether every run is there."""
    settings = replace(settings, backend=request.backend or settings.backend)
    study, scale = request.study, request.scale
    base = base_run(request)
    registry.require_weights(base["experiment"], settings.weights)
    if not only_plan:
        make_sample_if_wanted(base, settings, out)
    digest_source(base, settings)
    plan = plan_study(study, scale, request.source, settings, request.backend)
    at_once = request.at_once or room_for(plan.members)
    print_plan(plan, at_once, out)
    print_limits([stage for stage, _, _ in plan.members[0].planner.planned.values()], out)
    if only_plan:
        return True
    require_space(plan.space, settings)
    check_room(plan.stages_to_make, settings, settings.backend)
    services.up(settings, lambda text: out.print(text, style="dim"))
    # Prefect reads its environment at import, and its server's address is known only now.
    from pipeline.orchestration.study.study_run import StudyRun

    folder, began = settings.home / "studies" / f"{study.name}-{scale}", time.monotonic()

    def report(outcomes: list[Outcome]) -> tuple[str, dict[str, bytes]]:
        wall_s = time.monotonic() - began
        found = study_report(plan, outcomes, wall_s=wall_s, at_once=at_once)
        return write_report(found, folder, settings.stores)

    outcomes = StudyRun(
        plan=plan,
        settings=settings,
        folder=folder,
        at_once=at_once,
        backend=request.backend,
        say=lambda text: out.print(text, markup=False, soft_wrap=True),
        report=report,
    ).run()
    out.print(f"Report: {folder / 'report.md'}", markup=False, soft_wrap=True)
    return all(outcome.is_there for outcome in outcomes)


def base_run(request: Request) -> dict[str, Any]:
    """The request of its first run, for what all of them share: episodes and weights."""
    return request.study.members(request.scale, request.source)[0].request(request.backend)


def print_plan(plan: StudyPlan, at_once: int, out: Console) -> None:
    seeds = len({each.member.seed for each in plan.members})
    out.print(
        f"{plan.study.name} ({plan.scale}): {len(plan.study.variants)} variants, {seeds} seeds, "
        f"{len(plan.members)} runs, {at_once} at once"
    )
    table = Table("stage", "stores", "there", "to make", box=None)
    for stage, (n, there, missing) in plan.by_stage.items():
        table.add_row(stage, str(n), str(there), str(missing) if missing else "–")
    out.print(table)
    if flops := plan.training_flops:
        hours = flops / (A100_FLOPS * COMMON_MFU) / 3600
        out.print(
            f"Training of the world models: {flops:.2g} FLOPs"
            + (f", about {hours:.0f} hours of an A100 at 40 % of its peak" if hours >= 1 else "")
        )
    out.print(f"Disk: {plan.space}")
