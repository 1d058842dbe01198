"""A study in Prefect: its runs as subflows, its report as the artifact of their parent."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prefect.context import serialize_context

from pipeline.lineage.artifacts import create
from pipeline.lineage.page import thumbnail
from pipeline.lineage.reach import GATE, PrefectGone, run_may_end_alone
from pipeline.orchestration.interrupts import sigterm_interrupts
from pipeline.orchestration.study.outcome import Outcome
from pipeline.orchestration.study.parent import run_as_study
from pipeline.orchestration.study.planned import StudyPlan
from pipeline.orchestration.study.schedule import Schedule
from pipeline.settings import Settings


@dataclass(kw_only=True)
class StudyRun:
    """What the command wants of the flow.

    folder: for the logs of the runs. report: Markdown and pictures (PNG, by name) of the outcomes.
    say: told of each run's start and end.
    """

    plan: StudyPlan
    settings: Settings
    folder: Path
    at_once: int
    backend: str | None
    say: Callable[[str], None]
    report: Callable[[list[Outcome]], tuple[str, dict[str, bytes]]]
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self) -> list[Outcome]:
        """Runs all members and publishes the report."""
        run_as_study(self.plan.study.name, self.plan.scale, self.in_flow)
        return self.outcomes

    def in_flow(self) -> None:
        run_may_end_alone()
        with GATE.run(), sigterm_interrupts():  # in place of Prefect's handler
            schedule = Schedule(
                settings=self.settings,
                logs=self.folder / "logs",
                context=serialize_context(),
                at_once=self.at_once,
                backend=self.backend,
                say=self.say,
                pending=list(self.plan.members),
            )
            self.outcomes = schedule.run()
            self.publish(*self.report(self.outcomes))

    def publish(self, page: str, pictures: dict[str, bytes]) -> None:
        name, shown = self.plan.study.name, [f"![{n}]({thumbnail(p)})" for n, p in pictures.items()]
        about = f"{name}, {self.plan.scale}"
        try:
            create("markdown", "\n\n".join([page, *shown]), key=f"study-{name}", description=about)
        except PrefectGone as error:
            self.say(f"The Prefect server is gone ({error}): the report is in {self.folder} alone")
