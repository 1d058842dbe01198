"""Timing, the same for all benchmarks: interleaved variants, least and median, no verdict on noise.

On a CPU the clock is the process's CPU time, which other processes disturb less than wall time; on
a GPU it is wall time until the last kernel is done. Callers check results before they time
anything.
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
    """Seconds for one item of work."""

    least: float
    median: float

    @classmethod
    def of(cls, seconds: list[float], n_items: int = 1) -> "Times":
        return cls(min(seconds) / n_items, median(seconds) / n_items)

    def __str__(self) -> str:
        unit, factor = ("s", 1) if self.median >= 1 else ("ms", 1e3)
        return f"{self.least * factor:.3g} ({self.median * factor:.3g}) {unit}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to do the compared work, and the items of work in a call."""

    work: Callable[[], object]
    n_items: int = 1


def interleave(
    variants: Mapping[str, Variant], rounds: int, device: torch.device
) -> dict[str, Times]:
    """Times of all variants, run in turn (A B A B ...) after an untimed warm-up of each."""
    for variant in variants.values():
        timed(variant.work, device)
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            spent[name].append(timed(variant.work, device))
    return {name: Times.of(spent[name], variant.n_items) for name, variant in variants.items()}


def timed(work: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronize(device)
    began = clock()
    work()
    synchronize(device)
    return clock() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Conditions:
    """The machine's load and other conditions during a benchmark."""

    def __init__(self, device: torch.device):
        self.device, self.load, self.began = device, os.getloadavg()[0], _ticks()

    def verdict(self, ratio: float, floor: float, times: Iterable[Times]) -> str:
        """Whether the ratio reaches the floor; "noisy" if load was high or times were uneven."""
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
            + f"load up to {self.load:.1f}, {100 * stolen / max(1, busy):.0f} % stolen by the "
            f"host; Python {platform.python_version()}, torch {torch.__version__}, commit "
            f"{commit(Path(__file__).parent)}, {time.strftime('%Y-%m-%d')}"
        )


def commit(folder: Path) -> str:
    """The commit of the git checkout that the folder is in."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def _ticks() -> tuple[int, int]:
    """The machine's CPU time since boot in clock ticks: all that was demanded, and stolen."""
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
