"""Sightings of objects -> one row of numbers: errors, shares, and how small an object may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics import MAX_PSNR
from stages.objects.sightings import Sighting


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """Means over sightings; `n` of them. Shares are from 0 to 1."""

    n: int
    psnr: float  # dB, of all object pixels' mean squared error, each sighting counted alike
    colour_error: float  # ΔE76 of an object's mean colour
    delta_e: float  # ΔE00 of its pixels
    # Share whose colour is nearest to its own, of those with others in the frame; None if none has
    named: float | None
    present: float  # share seen near its place, rather than its surroundings


def object_scores(sightings: Sequence[Sighting]) -> ObjectScores | None:
    """None without a sighting."""
    if not sightings:
        return None

    def mean(name: str) -> float:
        return float(np.mean([getattr(seen, name) for seen in sightings]))

    beside_others = [seen.named for seen in sightings if seen.named is not None]
    return ObjectScores(
        n=len(sightings),
        psnr=psnr_of(mean("squared_error")),
        colour_error=mean("colour_error"),
        delta_e=mean("delta_e"),
        named=float(np.mean(beside_others)) if beside_others else None,
        present=mean("present"),
    )


def psnr_of(squared_error: float) -> float:
    """In dB, of values in [-1, 1]."""
    return MAX_PSNR if squared_error == 0 else min(MAX_PSNR, 10 * math.log10(4 / squared_error))


def smallest_held(sightings: Sequence[Sighting], min_named: float, n_bins: int = 8) -> float | None:
    """The area (share of a frame) from which on objects are named rightly at least `min_named`.

    Sightings are put in order of area and cut into bins of equal number; the answer is the smallest
    area of the first bin from which on every bin is good. None if not even the largest are.
    """
    judged = [seen for seen in sightings if seen.named is not None]
    if not judged:
        return None
    order = sorted(judged, key=lambda seen: seen.area)
    smallest = None
    for part in reversed(np.array_split(np.arange(len(order)), min(n_bins, len(order)))):
        if np.mean([order[i].named for i in part]) < min_named:
            break
        smallest = order[int(part[0])].area
    return smallest
