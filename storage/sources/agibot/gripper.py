"""What the readings of a gripper or a hand mean: 0 open .. 1 closed, from any unit in the data.

The unit is a fact of the whole file, so no single reading decides it: a sensor that drops out for a
row, or jumps, costs that row. Rows that were lost are NaN, which rejects the clips that need them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

HAND_CLOSED_RAD = np.pi / 2  # mean finger angle of a closed hand; rough, not measured
HAND_RANGE_RAD = (-np.pi, 2 * np.pi)  # no finger bends further: beyond it a reading is lost
MIN_VARIATION = 0.05  # standard deviation of a closed fraction below which its sense is unclear
MIN_CORRELATION = 0.3
# Shares of the readings: too few to be a motion, so lost; enough to be the unit
RARE, ENOUGH = 0.01, 0.1
FEW = 3  # readings: as many are no accident


@dataclass(frozen=True)
class Scale:
    """A unit of grippers: what they read open and closed. Readings outside (lowest, highest] are
    lost.
    """

    open_at: float
    closed_at: float
    lowest: float
    highest: float

    def holds(self, raw: Float64[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        return (raw > self.lowest) & (raw <= self.highest)  # NaN compares as false


FRACTIONS = Scale(0.0, 1.0, -0.5, 1.5)
FROM_35 = Scale(35.0, 120.0, 20.0, 220.0)  # state/effector of a G1, measured on six real clips
FROM_0 = Scale(0.0, 120.0, -5.0, 220.0)


def closed_fraction(raw: Float64[np.ndarray, "n e"]) -> Float64[np.ndarray, "n 2"]:
    """0 open .. 1 closed, left and right; NaN where the reading was lost.

    Grippers (2 wide): see `scale_of`. Hands (12 wide): mean angle of the six finger joints over
    `HAND_CLOSED_RAD`; rough, not validated on a real hand. Raises ValueError if the readings fit no
    unit.
    """
    if raw.shape[1] == 12:
        fingers = _without_lost(raw, (raw > HAND_RANGE_RAD[0]) & (raw < HAND_RANGE_RAD[1]))
        return np.clip(fingers.reshape(-1, 2, 6).mean(-1) / HAND_CLOSED_RAD, 0.0, 1.0)
    scale = scale_of(raw)
    known = np.where(scale.holds(raw), raw, np.nan)
    known = np.where(is_absent(raw) & (raw == 0), scale.open_at, known)
    return np.clip((known - scale.open_at) / (scale.closed_at - scale.open_at), 0.0, 1.0)


def scale_of(raw: Float64[np.ndarray, "n 2"]) -> Scale:
    """The unit of most readings: fractions; about 35 open to 120 closed (usual in AGIBOT-World); or
    0 to 120.

    An arm that reads 0 throughout has no gripper, and no say if the other arm has one. Raises
    ValueError if the readings fit none of these, or two of them.
    """
    present = raw[:, ~is_absent(raw)]
    readings = _without_lost(present, FROM_0.holds(present))
    readings = readings[np.isfinite(readings)]
    if not readings.size:
        return FRACTIONS
    fractions = float(FRACTIONS.holds(readings).mean())
    offsets = float(FROM_35.holds(readings).mean())
    if fractions >= 1 - RARE:
        return FRACTIONS
    if offsets >= 1 - RARE:
        return FROM_35
    # A gripper of 0 to 120 passes between the two ranges wherever it closes
    between = ~FRACTIONS.holds(readings) & ~FROM_35.holds(readings)
    if between.mean() > ENOUGH or (between.sum() >= FEW and offsets > RARE):
        return FROM_0
    # Where nothing passes, zeros among the others are a sensor that was away
    if (FROM_35.holds(readings) | (readings == 0)).all() and offsets > 0.5:
        return FROM_35
    raise ValueError(
        f"{fractions:.0%} of the gripper's readings are fractions and {offsets:.0%} lie in "
        f"{FROM_35.lowest:g}..{FROM_35.highest:g}, without any between"
    )


def is_absent(raw: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, "2"]:
    """Arms that read 0 all the time; fewer than `FEW` other readings do not count."""
    return (raw == 0).any(0) & ((np.nan_to_num(raw) != 0).sum(0) < FEW)


def _without_lost(
    raw: Float64[np.ndarray, "n e"], known: Bool[np.ndarray, "n e"]
) -> Float64[np.ndarray, "n e"]:
    """NaN where a reading is impossible. Raises ValueError if most are: the unit is another one."""
    finite = np.isfinite(raw)
    if known.sum() < finite.sum() / 2:
        low, high = np.quantile(raw[finite], [0.05, 0.95])
        raise ValueError(f"most readings of the effector lie in {low:.4g}..{high:.4g}")
    return np.where(known, raw, np.nan)


def gripper_sense(
    measured: Float64[np.ndarray, "m 2"], commanded: Float64[np.ndarray, "m 2"]
) -> Literal[1, -1] | None:
    """Whether measured fractions follow (1) or oppose (-1) the commanded ones; None if unclear.

    One answer for both arms: by the correlation over both, after subtracting each arm's mean. Rows
    where either was lost do not count.
    """
    known = np.isfinite(measured) & np.isfinite(commanded)
    if len(measured) < 2 or not known.any(0).all():
        return None
    x, y = (
        (track - track.mean(0, where=known, keepdims=True))[known]
        for track in (measured, commanded)
    )
    if not min(x.std(), y.std()) >= MIN_VARIATION:
        return None
    correlation = (x * y).mean() / (x.std() * y.std())
    if abs(correlation) < MIN_CORRELATION:
        return None
    return 1 if correlation > 0 else -1
