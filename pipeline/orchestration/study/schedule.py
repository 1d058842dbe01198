"""Which runs of a study go at once: as many as the machine has room for, none in another's way."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.orchestration.journal import Journal
from pipeline.orchestration.study.outcome import Outcome
from pipeline.orchestration.study.planned import PlannedMember
from pipeline.orchestration.study.processes import RunningMember, start
from pipeline.settings import Settings
from storage.stores import store

LOOK_EVERY_S = 0.5
# Ctrl-C in a terminal reaches the runs as well, and then they need no second signal
END_BY_THEMSELVES_S = 10.0


@dataclass(kw_only=True)
class Schedule:
    """Runs the members. say: told of each start and end."""

    settings: Settings
    logs: Path
    context: dict[str, Any]
    at_once: int
    backend: str | None
    say: Callable[[str], None]
    pending: list[PlannedMember]
    running: list[RunningMember] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # address -> the run that failed there

    def run(self) -> list[Outcome]:
        """All outcomes. Ctrl-C ends the runs, and is raised again."""
        try:
            while self.pending or self.running:
                while self.may_start():
                    pass
                while self.running and all(each.alive for each in self.running):
                    time.sleep(LOOK_EVERY_S)
                for each in [r for r in self.running if not r.alive]:
                    self.running.remove(each)
                    self.ended(each)
        except BaseException:
            self.end_all()
            raise
        return self.outcomes

    def may_start(self) -> bool:
        """Starts the next member that can be, or leaves out one that need not or cannot be.

        Returns whether there was one.
        """
        busy = set[str]().union(*(each.makes for each in self.running))
        for each in self.pending:
            missing = each.missing
            reason = next(
                (self.failed[ref.uri] for ref in each.stores if ref.uri in self.failed), ""
            )
            if not missing or reason:
                self.pending.remove(each)
                self.leave_out(each, reason)
                return True
            # Two runs that make the same store would do the work twice, or wait for each other
            if len(self.running) < self.at_once and not missing & busy:
                self.pending.remove(each)
                self.start(each)
                return True
        return False

    def leave_out(self, each: PlannedMember, reason: str) -> None:
        state: Literal["skipped", "cached"] = "skipped" if reason else "cached"
        self.outcomes.append(Outcome(planned=each, state=state, why=reason))
        self.say(f"{each.member.name}: {state}{f', {reason}' if reason else ''}")

    def start(self, each: PlannedMember) -> None:
        name = re.sub(r"[^\w.]+", "-", each.member.variant)
        log = self.logs / f"{name}-seed{each.member.seed}.log"
        self.running.append(start(each, self.context, log, self.backend))
        left = len(self.pending)
        self.say(f"{each.member.name}: started ({left} to come), {log}")

    def ended(self, each: RunningMember) -> None:
        journal, name = each.journal(self.settings), each.planned.member.name
        missing = [ref for ref in each.planned.stores if not store.is_complete(ref)]
        why = reason_of(journal, each) if missing else ""
        self.outcomes.append(
            Outcome(
                planned=each.planned,
                state="failed" if missing else "completed",
                run=journal.id if journal else "",
                seconds=each.seconds,
                why=why,
            )
        )
        if not missing:
            self.say(f"{name}: completed in {each.seconds:.0f} s")
            return
        # The first store that is missing is where it failed; others need it, too, perhaps
        self.failed[missing[0].uri] = f"{missing[0].stage} failed in {name}"
        self.say(f"{name}: FAILED after {each.seconds:.0f} s: {why}. Log: {each.log}")

    def end_all(self) -> None:
        until = time.monotonic() + END_BY_THEMSELVES_S
        while any(each.alive for each in self.running) and time.monotonic() < until:
            time.sleep(0.1)
        for each in self.running:  # all are told before one is waited for
            each.terminate()
        for each in self.running:
            each.wait_or_kill()


def reason_of(journal: Journal | None, each: RunningMember) -> str:
    """Why a run did not complete, in a line."""
    if journal is None:
        return f"it ended with exit code {each.process.exitcode} before it began"
    over = ("failed", "crashed", "running")  # a run that was killed could not say more
    stage = next((entry for entry in journal.stages if entry.state in over), None)
    note = (stage.note if stage else "") or journal.note or journal.true_state
    return f"{stage.name}: {note}" if stage else note
