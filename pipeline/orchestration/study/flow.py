"""A study as a Prefect flow: its runs are subflows, its report is the flow's artifact."""

from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.context import serialize_context

from pipeline.lineage.artifacts import create
from pipeline.lineage.page import thumbnail
from pipeline.lineage.reach import GATE, PrefectGone, run_may_end_alone
from pipeline.orchestration.interrupts import sigterm_interrupts
from pipeline.orchestration.study.planned import StudyPlan
from pipeline.orchestration.study.schedule import Outcome, Schedule
from pipeline.settings import Settings

Report = Callable[[list[Outcome]], tuple[str, dict[str, bytes]]]


def run_study(
    plan: StudyPlan,
    settings: Settings,
    *,
    folder: Path,
    at_once: int,
    backend: str | None,
    say: Callable[[str], None],
    report: Report,
) -> list[Outcome]:
    """Runs all members and publishes what `report` makes of the outcomes.

    folder: for the logs of the runs. report: Markdown, and pictures (PNG) by name.
    """

    @flow(
        name="study",
        flow_run_name=f"{plan.study.name} ({plan.scale})",
        persist_result=False,
        log_prints=False,
    )
    def study() -> list[Outcome]:
        schedule = Schedule(
            settings=settings,
            logs=folder / "logs",
            context=serialize_context(),
            at_once=at_once,
            backend=backend,
            say=say,
            pending=list(plan.members),
        )
        run_may_end_alone()
        with GATE.run(), sigterm_interrupts():  # in place of Prefect's handler
            outcomes = schedule.run()
            page, pictures = report(outcomes)
            shown = [f"![{name}]({thumbnail(png)})" for name, png in pictures.items()]
            try:
                create(
                    "markdown",
                    "\n\n".join([page, *shown]),
                    key=f"study-{plan.study.name}",
                    description=f"{plan.study.name}, {plan.scale}",
                )
            except PrefectGone as error:
                say(f"The Prefect server is gone ({error}): the report is in {folder} alone")
        return outcomes

    return study()
