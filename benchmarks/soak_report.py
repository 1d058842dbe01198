"""What a soak found: each strike, what a completed run has lost, and the page with all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import store_digests
from measuring import Conditions
from soak_faults import DISK_FULL, FAULTS
from soak_run import Workspace

from stages.drawing.markdown import markdown_table
from storage.stores import cleanup
from storage.stores.verify import verify


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One fault, where it struck, and what came of it.

    seconds: the longest time without progress until the run got on, or the command ended. code: of
    the command that ended.
    """

    round: int
    fault: str
    stage: str
    did: str
    seconds: float
    code: int | None
    wrong: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        return "went on" if self.code is None else f"ended, code {self.code}"


def losses(workspace: Workspace, reference: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What a completed run has lost, or has more than an undisturbed one."""
    wrong = differences(store_digests.digests(workspace.root), reference)
    collected = workspace.command("gc", "--delete", "--older-than-h", "0")
    if collected.returncode:
        wrong.append(f"gc: {collected.stdout.decode()[-200:]}")
    wrong += [f"orphan: {path}" for path in cleanup.garbage(workspace.root, 0.0)]
    for ref in cleanup.list_stores(workspace.root):
        wrong += verify(ref, "full")
    return wrong


def differences(
    found: Mapping[str, Mapping[str, str]], reference: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Stages, arrays and files that are in one only, or not equal."""
    wrong = []
    for stage in sorted(found.keys() | reference.keys()):
        ours, theirs = found.get(stage, {}), reference.get(stage, {})
        names = sorted(name for name in ours.keys() | theirs.keys())
        wrong += [
            f"{stage}: {name} differs" for name in names if ours.get(name) != theirs.get(name)
        ]
    return wrong


def table(strikes: Sequence[Strike]) -> str:
    """A row a fault: how often, where, what came of it, the longest wait."""
    rows = []
    for name in dict.fromkeys(fault.name for fault in FAULTS):
        of = [strike for strike in strikes if strike.fault == name]
        if of:
            outcomes = {s.outcome: sum(t.outcome == s.outcome for t in of) for s in of}
            shown = ", ".join(f"{text} ({count})" for text, count in sorted(outcomes.items()))
            seconds = sorted(strike.seconds for strike in of)
            median = seconds[len(seconds) // 2]
            stages = len({strike.stage for strike in of})
            wrong = sum(bool(strike.wrong) for strike in of)
            rows.append((name, len(of), stages, shown, f"{median:.1f}, {seconds[-1]:.1f}", wrong))
    columns = ("fault", "times", "stages hit", "the command", "seconds: median, longest", "wrong")
    return markdown_table(columns, [tuple(map(str, row)) for row in rows])


@dataclass(frozen=True, kw_only=True)
class Report:
    """commands: that were started. rounds: that began with empty stores and were completed.

    left_out: faults of the disk, where none could be mounted.
    """

    strikes: Sequence[Strike]
    losses: Sequence[str]
    commands: int
    rounds: int
    left_out: int = 0

    @property
    def faults(self) -> list[str]:
        """All that was not as it should be, losses last."""
        wrong = [f"{s.fault} in {s.stage}: {text}" for s in self.strikes for text in s.wrong]
        return [*wrong, *self.losses]

    def page(self, conditions: Conditions) -> str:
        full = sum(strike.fault == DISK_FULL for strike in self.strikes)
        lines = [
            f"{len(self.strikes) - full} kills and {full} full disks in {self.commands} commands, "
            f"{self.rounds} rounds: {len(self.losses)} differences from the undisturbed run.",
            *[f"{self.left_out} full disks left out: none could be mounted"] * (self.left_out > 0),
            "",
            table(self.strikes),
            "",
            *[f"- {text}" for text in self.faults],
            str(conditions),
        ]
        return "\n".join(lines)
