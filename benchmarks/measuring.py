"""How benchmarks measure, the same for all: arms take turns, least and median are shown, noise gets
no verdict.

On a CPU the clock is the process's own CPU time, which other processes disturb less than wall time;
on a GPU it is wall time until the last kernel is done. Nothing is timed before its results are
known to be right: callers see to that.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from model.training.peak_flops import device_name
from stages.drawing.markdown import markdown_table

NOISY = 1.3  # median over least: above it, something else was running


@dataclass(frozen=True)
class Times:
    """Seconds of one piece of work."""

    least: float
    median: float

    @classmethod
    def of(cls, seconds: list[float], pieces: int = 1) -> "Times":
        return cls(min(seconds) / pieces, median(seconds) / pieces)

    def __str__(self) -> str:
        unit, factor = ("s", 1) if self.median >= 1 else ("ms", 1e3)
        return f"{self.least * factor:.3g} ({self.median * factor:.3g}) {unit}"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to do the work that is compared; `pieces` of it in one call."""

    work: Callable[[], object]
    pieces: int = 1


def take_turns(arms: Mapping[str, Arm], rounds: int, device: torch.device) -> dict[str, Times]:
    """A B A B ..., after a warm-up of each that is not counted."""
    for arm in arms.values():
        timed(arm.work, device)
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            spent[name].append(timed(arm.work, device))
    return {name: Times.of(spent[name], arm.pieces) for name, arm in arms.items()}


def timed(work: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    settle(device)
    began = clock()
    work()
    settle(device)
    return clock() - began


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Conditions:
    """What else the machine was doing meanwhile."""

    def __init__(self, device: torch.device):
        self.device, self.load, self.began = device, os.getloadavg()[0], _ticks()

    def verdict(self, ratio: float, floor: float, times: Iterable[Times]) -> str:
        """Whether the ratio reaches the floor; no verdict if the load was too high or the times too
        uneven.
        """
        self.load = max(self.load, os.getloadavg()[0])
        if self.load > (os.cpu_count() or 1) + 0.5 or any(
            t.median > NOISY * t.least for t in times
        ):
            return "noisy"
        return "holds" if ratio >= floor else "missed"

    def __str__(self) -> str:
        busy, stolen = (now - before for now, before in zip(_ticks(), self.began, strict=True))
        self.load = max(self.load, os.getloadavg()[0])
        return (
            f"{os.cpu_count()} cores, {device_name(torch.device('cpu'))}; "
            + (f"{device_name(self.device)}; " if self.device.type == "cuda" else "")
            + f"load up to {self.load:.1f}, {100 * stolen / max(1, busy):.0f} % stolen by the host; Python "
            f"{platform.python_version()}, torch {torch.__version__}, commit {commit(Path(__file__).parent)}, "
            f"{time.strftime('%Y-%m-%d')}"
        )


def commit(folder: Path) -> str:
    """Of the git checkout that the folder is in."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def _ticks() -> tuple[int, int]:
    """CPU time of the machine since it started, in clock ticks: all that was wanted, and what the
    host took away.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    user, nice, system, _, _, irq, softirq, steal = map(
        int, stat.read_text().split("\n")[0].split()[1:9]
    )
    return user + nice + system + irq + softirq + steal, steal


Row = dict[str, object]  # column -> cell


def table(title: str, rows: Sequence[Row]) -> str:
    """Markdown; the columns are those of the first row."""
    columns = list(rows[0])
    cells = ([row.get(name, "") for name in columns] for row in rows)
    return f"\n## {title}\n\n{markdown_table(columns, cells)}"
