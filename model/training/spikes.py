"""Detects a loss or gradient far above those before it: a broken clip, or a diverging training."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

NORMAL = 1.4826  # standard deviation over median absolute deviation, for a normal distribution


@dataclass
class SpikeGuard:
    """A `loop.Guard`: why a step is a spike, or None.

    Logarithms are compared, since a spike is a number many times too large; with medians, since the
    steps before may hold single high numbers themselves.
    """

    deviations: float  # allowed above the median, in robust standard deviations
    window: int = 200  # steps to compare with
    least: int = 50  # steps before anything is compared
    # The deviation counts as at least this (2 %): a loss that hardly varies must not stop a run
    floor: float = 0.02
    before: dict[str, deque[float]] = field(default_factory=dict)

    def __call__(self, losses: Mapping[str, float], grad_norm: float) -> str | None:
        found = {"loss": losses["total"], "gradient norm": grad_norm}
        for name, value in found.items():
            if why := self._compare(name, value):
                return why
        self.remember(found)
        return None

    def remember(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self.before.setdefault(name, deque(maxlen=self.window)).append(value)

    def _compare(self, name: str, value: float) -> str | None:
        before = self.before.get(name, ())
        if len(before) < self.least or value <= 0:
            return None
        logs = [math.log(max(x, 1e-30)) for x in before]
        middle = median(logs)
        deviation = max(NORMAL * median(abs(x - middle) for x in logs), self.floor)
        z = (math.log(value) - middle) / deviation
        if z <= self.deviations:
            return None
        return (
            f"{name} {value:.4g} is {z:.1f} deviations above the median {math.exp(middle):.4g} of "
            f"the last {len(before)} steps (at most {self.deviations:g} are allowed)"
        )
