"""`roboscape study`: all runs of a study, then its report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.cli.machine import check_room
from pipeline.cli.run import make_sample_if_wanted
from pipeline.cli.source import digest_source
from pipeline.experiments import registry
from pipeline.experiments.studies.study import Member, Scale, Study
from pipeline.orchestration import services
from pipeline.orchestration.disk_estimate import require_space
from pipeline.orchestration.study.outcome import Outcome
from pipeline.orchestration.study.planned import StudyPlan, plan_study, room_for
from pipeline.settings import Settings
from stages.comparison.contrasts import Place
from stages.comparison.pictures import draw_clip, most_different, plot_horizon
from stages.comparison.score_table import ScoreTable
from stages.comparison.study_report import (
    Statement,
    StudyReport,
    VariantScores,
    make_report,
    report_csv,
    report_document,
    report_page,
)
from stages.comparison.tradeoff import plot_tradeoff
from stages.drawing.pictures import contact_sheet, png_bytes
from storage.atomic import write_file
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import ClipRows, find_row, open_rows

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
    study, scale = request.study, request.scale
    base = base_run(request)
    registry.require_weights(base["experiment"], settings.weights)
    if not only_plan:
        make_sample_if_wanted(base, settings, out)
    digest_source(base, settings)
    plan = plan_study(study, scale, request.source, settings, request.backend)
    at_once = request.at_once or room_for(plan.members)
    print_plan(plan, at_once, out)
    if only_plan:
        return True
    require_space(plan.space, settings)
    check_room([plan.members[0].planner.planned["world_model"][0]], settings, request.backend or "")
    services.up(settings, lambda text: out.print(text, style="dim"))
    # Prefect reads its environment at import, and its server's address is known only now.
    from pipeline.orchestration.study.study_run import StudyRun

    folder = settings.home / "studies" / f"{study.name}-{scale}"

    def report(outcomes: list[Outcome]) -> tuple[str, dict[str, bytes]]:
        made = study_report(plan, outcomes)
        return write_report(made, folder, settings)

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


def base_run(request: Request) -> dict:
    """The request of its first run, for what all of them share: episodes and weights."""
    first: Member = request.study.members(request.scale, request.source)[0]
    return first.request(request.backend)


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


def study_report(plan: StudyPlan, outcomes: Sequence[Outcome]) -> StudyReport:
    by_variant: dict[str, dict[int, ScoreTable]] = {v.name: {} for v in plan.study.variants}
    there = {id(outcome.planned) for outcome in outcomes if outcome.is_there}
    for each in plan.members:
        if id(each) in there:
            result = open_result(each.evaluation)
            by_variant[each.member.variant][each.member.seed] = ScoreTable.read(
                result, each.member.name
            )
    return make_report(
        title=f"{plan.study.name}, {plan.scale}",
        question=plan.study.question,
        setting=setting_lines(plan, by_variant),
        variants=[
            VariantScores(name=v.name, about=v.about, by_seed=by_variant[v.name])
            for v in plan.study.variants
        ],
        statements=[
            Statement(
                text=claim.text,
                better=claim.better,
                than=claim.than,
                place=Place(
                    protocol=claim.protocol,
                    reference=claim.reference,
                    region=claim.region,
                    metric=claim.metric,
                ),
                source=claim.source,
            )
            for claim in plan.study.claims
        ],
        failures=[
            f"{outcome.planned.member.name}: {outcome.state}, {outcome.why}"
            for outcome in outcomes
            if not outcome.is_there
        ],
        commands=[(each.member.name, each.member.command) for each in plan.members],
    )


def setting_lines(plan: StudyPlan, scores: dict[str, dict[int, ScoreTable]]) -> list[str]:
    how = plan.study.scales[plan.scale]
    changed = ", ".join(f"{name}={value}" for name, value in how.overrides.items())
    lines = [
        f"Experiment `{how.experiment}`" + (f" with {changed}" if changed else "") + ".",
        f"{len(plan.study.variants)} variants, seeds {', '.join(map(str, how.seeds))} of the world "
        "model's training; clips, labels and tokens are the same for all where they can be.",
    ]
    tables = [table for by_seed in scores.values() for table in by_seed.values()]
    if tables:
        clips, episodes = len(tables[0].clips), len(set(tables[0].episodes.values()))
        lines.append(f"Scored on {clips} held-out clips of {episodes} episodes.")
    return lines


def write_report(
    report: StudyReport, folder: Path, settings: Settings
) -> tuple[str, dict[str, bytes]]:
    """Writes everything; returns the page, and the pictures by name."""
    folder.mkdir(parents=True, exist_ok=True)
    page = report_page(report)
    write_file(folder / "report.md", page.encode())
    write_file(folder / "scores.csv", report_csv(report))
    document = json.dumps(report_document(report), indent=1, ensure_ascii=False)
    write_file(folder / "report.json", document.encode())
    pictures = draw(report, settings)
    for name, png in pictures.items():
        write_file(folder / name, png)
    return page, pictures


def draw(report: StudyReport, settings: Settings) -> dict[str, bytes]:
    if report.compared is None:
        return {}
    tables = [ScoreTable.pooled(v.tables, v.name) for v in report.there]
    clips = open_rows(StoreRef.under(settings.stores, tables[0].inputs["clip"]))
    assert isinstance(clips, ClipRows), clips
    common = report.compared.clips
    pictures = {"horizon.png": plot_horizon(tables, common, clips.rate_hz)}
    if tradeoff := plot_tradeoff(tables):
        pictures["tradeoff.png"] = tradeoff
    strips = []
    for clip in most_different(tables[0], tables[-1], common)[:4]:
        camera = clips.gather("rgb", np.array([find_row(clips, clip)]))[0]
        strips.append(draw_clip(clip, camera, tables, clips.rate_hz))
    drawn = [strip for strip in strips if strip is not None]
    if drawn:
        title = f"videos of the first seed; from {tables[-1].label}'s largest gain to its loss"
        pictures["clips.png"] = png_bytes(contact_sheet(drawn, title=title))
    return pictures
