"""What the runs of a study have made -> its report in the workspace."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.orchestration.study.outcome import Outcome
from pipeline.orchestration.study.planned import StudyPlan
from stages.comparison.pictures import control_panels, draw_most_different, plot_horizon
from stages.comparison.score_table import ScoreTable
from stages.comparison.study_report import (
    RunLine,
    StudyReport,
    VariantScores,
    report_csv,
    report_document,
    report_page,
)
from stages.comparison.tradeoff import plot_tradeoff
from storage.atomic import write_file
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import ClipRows, open_rows


def study_report(
    plan: StudyPlan, outcomes: Sequence[Outcome], *, wall_s: float, at_once: int
) -> StudyReport:
    """wall_s: of the command, at_once: its runs."""
    by_variant: dict[str, dict[int, ScoreTable]] = {v.name: {} for v in plan.study.variants}
    in_order = sorted(outcomes, key=lambda outcome: plan.members.index(outcome.planned))
    for outcome in in_order:
        member = outcome.planned.member
        if outcome.is_there:
            table = ScoreTable.read(open_result(outcome.planned.evaluation), member.name)
            by_variant[member.variant][member.seed] = table
    return StudyReport.of(
        title=f"{plan.study.name}, {plan.scale}",
        question=plan.study.question,
        setting=[*setting_lines(plan, by_variant), made_line(outcomes, wall_s, at_once)],
        variants=[
            VariantScores(
                name=v.name,
                about=v.about,
                by_seed=by_variant[v.name],
                numbers=other_numbers(plan, v.name, outcomes),
            )
            for v in plan.study.variants
        ],
        claims=plan.study.claims,
        runs=[
            RunLine(
                name=outcome.planned.member.name,
                state=outcome.state,
                why=outcome.why,
                run=outcome.run,
                seconds=outcome.seconds,
                command=outcome.planned.member.command,
            )
            for outcome in in_order
        ],
        rate_hz=plan.rate_hz,
    )


def other_numbers(plan: StudyPlan, variant: str, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Of the variant's runs that are there, the mean over seeds."""
    there = [o.planned for o in outcomes if o.is_there and o.planned.member.variant == variant]
    found: dict[str, str] = {}
    for wanted in plan.study.numbers:
        values = [value for each in there if (value := each.number(wanted)) is not None]
        if values:
            found[wanted.text] = f"{sum(values) / len(values):{wanted.form}}"
    return found


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


def made_line(outcomes: Sequence[Outcome], wall_s: float, at_once: int) -> str:
    """How many runs this command made, in which time."""
    states = Counter(outcome.state for outcome in outcomes)
    if not states["completed"]:
        return "This command made no run."
    text = (
        f"This command made {states['completed']} runs in {wall_s / 60:.0f} minutes, {at_once} at "
        f"once on {os.cpu_count()} cores"
    )
    others = {"cached": "were there already", "failed": "failed", "skipped": "were left out"}
    found = [f"{states[state]} {text}" for state, text in others.items() if states[state]]
    return "; ".join((text, *found)) + "."


def write_report(report: StudyReport, folder: Path, root: str) -> tuple[str, dict[str, bytes]]:
    """Writes everything; returns the page, and the pictures by name. root: of the stores."""
    folder.mkdir(parents=True, exist_ok=True)
    page = report_page(report)
    write_file(folder / "report.md", page.encode())
    write_file(folder / "scores.csv", report_csv(report))
    document = json.dumps(report_document(report), indent=1, ensure_ascii=False)
    write_file(folder / "report.json", document.encode())
    pictures = draw(report, root)
    for name, png in pictures.items():
        write_file(folder / name, png)
    return page, pictures


def draw(report: StudyReport, root: str) -> dict[str, bytes]:
    if report.compared is None:
        return {}
    tables = [ScoreTable.pooled(v.tables, v.name) for v in report.there]
    clips = open_rows(StoreRef.under(root, tables[0].inputs["clip"]))
    assert isinstance(clips, ClipRows), clips
    common, last = report.compared.clips, tables[-1].label
    pictures = {"horizon.png": plot_horizon(tables, common, clips.rate_hz)}
    if forms := control_panels(tables):
        pictures["control.png"] = plot_horizon(tables, common, clips.rate_hz, forms)
    if tradeoff := plot_tradeoff(tables):
        pictures["tradeoff.png"] = tradeoff
    title = f"videos of one seed; from {last}'s largest gain over {tables[0].label} to its loss"
    if sheet := draw_most_different(tables, common, clips, title):
        pictures["clips.png"] = sheet
    return pictures
