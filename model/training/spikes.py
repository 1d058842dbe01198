"""Says when a step's loss or gradient stands out from those before it: a broken clip, or a training
that diverges.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

NORMAL = 1.4826  # median deviations to standard deviations, for normal numbers


@dataclass
class SpikeGuard:
    """A `training.Guard`. Numbers are compared as logarithms: a spike is one that is many times too
    large.

    Medians, since the numbers before may hold the odd high one themselves.
    """

    deviations: float  # above the median, in robust standard deviations
    window: int = 200  # steps looked back on
    least: int = 50  # steps before there is anything to compare with
    # Deviations count as at least this (2 %): a loss that hardly varies must not stop for a little
    floor: float = 0.02
    before: dict[str, deque[float]] = field(default_factory=dict)

    def __call__(self, losses: Mapping[str, float], grad_norm: float) -> str | None:
        found = {"loss": losses["total"], "gradient norm": grad_norm}
        why = next(
            filter(None, (self._compare(name, value) for name, value in found.items())), None
        )
        if why is None:
            self.remember(found)
        return why

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
            f"{name} {value:.4g} is {z:.1f} deviations above the median {math.exp(middle):.4g} of the last "
            f"{len(before)} steps (at most {self.deviations:g} are allowed)"
        )
