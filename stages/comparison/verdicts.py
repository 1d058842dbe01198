"""Claims about two variants, settled by an interval over episodes and by every seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from stages.comparison.bootstrap import Estimate, estimate
from stages.comparison.contrasts import Place, differs
from stages.comparison.score_table import ByClip, ScoreTable
from stages.evaluation.columns import gain

Verdict = Literal["supported", "refuted", "undecided", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The statement that the variant `better` scores better than the variant `than` in one place.

    source: who states it; empty for a question of ours.
    """

    text: str
    better: str
    than: str
    place: Place
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """difference: `better` minus `than`, mean over seeds, clip by clip; None if not measured.

    by_seed: of each seed the mean difference. The verdict is by differences of `gain` and needs
    both: an interval over episodes that excludes 0, and every seed on that side. Episodes alone
    say nothing of another training; three seeds alone give no interval.
    """

    difference: Estimate | None
    by_seed: Sequence[float]
    verdict: Verdict


def settle(better: Sequence[ScoreTable], than: Sequence[ScoreTable], place: Place) -> Settled:
    """better, than: the tables of two variants, seed by seed."""
    pooled = (ScoreTable.pooled(than, ""), ScoreTable.pooled(better, ""))
    seeds = list(zip(than, better, strict=True))
    difference, by_seed = contrast(*pooled, place), mean_contrasts(seeds, place)
    worth = partial(gain, place.metric)
    gained = contrast(*pooled, place, worth)
    verdict: Verdict = "undecided"
    if gained is None or not by_seed:
        verdict = "not measured"
    elif gained.sign and {np.sign(m) for m in mean_contrasts(seeds, place, worth)} == {gained.sign}:
        verdict = "supported" if gained.sign > 0 else "refuted"
    return Settled(difference=difference, by_seed=by_seed, verdict=verdict)


def mean_contrasts(
    pairs: Sequence[tuple[ScoreTable, ScoreTable]],
    place: Place,
    worth: Callable[[float], float] = float,
) -> list[float]:
    """Of each pair that has one."""
    found = [contrast(one, other, place, worth) for one, other in pairs]
    return [each.mean for each in found if each is not None]


def contrast(
    one: ScoreTable, other: ScoreTable, place: Place, worth: Callable[[float], float] = float
) -> Estimate | None:
    """Other minus one; None where either has no value there, or they do not compare.

    worth: of each value what is subtracted.
    """
    if differs([one, other], place):
        return None
    ours, theirs = own_values(one, place), own_values(other, place)
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    differences = [worth(theirs[clip]) - worth(ours[clip]) for clip in both]
    return estimate(differences, [one.episodes[clip] for clip in both])


def own_values(table: ScoreTable, place: Place) -> ByClip:
    """The model's own value of each clip; empty where it has none."""
    cells = [cell for cell in table.own() if Place.of(cell) == place]
    return dict(table.scores[cells[0]]) if cells else {}


def seed_means(tables: Sequence[ScoreTable], place: Place) -> list[float]:
    """Of each seed that has values there, the mean over clips."""
    found = [list(own_values(table, place).values()) for table in tables]
    return [float(np.mean(values)) for values in found if values]
