"""Runs of a study as processes of their own, each a subflow of the study's flow in Prefect.

A process of its own lets several run at once, and lets one die without the others.
"""

import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pipeline.orchestration.journal import Journal, journals
from pipeline.orchestration.study.planned import PlannedMember
from pipeline.settings import Settings

ENDS_WITHIN_S = 60.0  # of a run that was told to end


@dataclass(frozen=True, kw_only=True)
class RunningMember:
    planned: PlannedMember
    makes: frozenset[str]  # addresses that were missing when it began
    process: SpawnProcess
    log: Path
    began: float

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def journal(self, settings: Settings) -> Journal | None:
        """Of its run; None if it ended before that began."""
        known = journals(settings.runs) if settings.runs.exists() else []
        return next((j for j in reversed(known) if j.pid == self.process.pid), None)

    def terminate(self) -> None:
        """Ends it as SIGTERM ends any run, so that finished work is kept."""
        if self.alive:
            self.process.terminate()

    def wait_or_kill(self) -> None:
        self.process.join(ENDS_WITHIN_S)
        if self.alive:
            self.process.kill()
            self.process.join()


def start(
    planned: PlannedMember, context: dict[str, Any], log: Path, backend: str | None
) -> RunningMember:
    """context: of the flow whose subflow it becomes (`prefect.context.serialize_context`)."""
    # The flow itself cannot be sent: the process imports it
    parent = {key: value for key, value in context["flow_run_context"].items() if key != "flow"}
    sent = {**context, "flow_run_context": parent}
    request, name = planned.member.request(backend), planned.member.name
    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=run_member, args=(request, name, sent, str(log)), name=name
    )
    process.start()
    return RunningMember(
        planned=planned,
        makes=frozenset(planned.missing),
        process=process,
        log=log,
        began=time.monotonic(),
    )


def run_member(request: dict[str, Any], name: str, context: dict[str, Any], log: str) -> None:
    """The process: one run, all of its output in the log. How it went is in its journal."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    from prefect.context import hydrated_context

    from pipeline.orchestration.flow_run import run_flow
    from pipeline.orchestration.interrupts import sigterm_interrupts
    from pipeline.orchestration.study.parent import study

    context["flow_run_context"]["flow"] = study
    with sigterm_interrupts(), hydrated_context(context):
        try:
            run_flow(request, name)
        except KeyboardInterrupt:
            sys.exit(130)
