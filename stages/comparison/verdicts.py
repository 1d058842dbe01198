"""Claims about two variants, settled by an interval over episodes and by every seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.comparison.bootstrap import Estimate, estimate
from stages.comparison.contrasts import Place, differs
from stages.comparison.score_table import ByClip, ScoreTable
from stages.evaluation.report import higher_is_better

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

    by_seed: of each seed the mean difference. The verdict needs both: an interval over episodes
    that excludes 0, and every seed on that side. Episodes alone say nothing of another training;
    three seeds alone give no interval.
    """

    difference: Estimate | None
    by_seed: Sequence[float]
    verdict: Verdict


def settle(better: Sequence[ScoreTable], than: Sequence[ScoreTable], place: Place) -> Settled:
    """better, than: the tables of two variants, seed by seed."""
    pooled = contrast(ScoreTable.pooled(than, ""), ScoreTable.pooled(better, ""), place)
    seeds = [contrast(one, other, place) for other, one in zip(better, than, strict=True)]
    by_seed = [each.mean for each in seeds if each is not None]
    if pooled is None or not by_seed:
        return Settled(difference=pooled, by_seed=by_seed, verdict="not measured")
    sign = 1 if higher_is_better(place.metric) else -1
    agree = {int(np.sign(value)) for value in by_seed}
    verdict: Verdict = "undecided"
    if pooled.sign and agree == {pooled.sign}:
        verdict = "supported" if sign * pooled.sign > 0 else "refuted"
    return Settled(difference=pooled, by_seed=by_seed, verdict=verdict)


def contrast(one: ScoreTable, other: ScoreTable, place: Place) -> Estimate | None:
    """Other minus one; None where either has no value there, or they do not compare."""
    if any(differs([one, other], what) for what in (place.reference, place.region)):
        return None
    ours, theirs = own_values(one, place), own_values(other, place)
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    differences = [theirs[clip] - ours[clip] for clip in both]
    return estimate(differences, [one.episodes[clip] for clip in both])


def own_values(table: ScoreTable, place: Place) -> ByClip:
    """The model's own value of each clip; empty where it has none."""
    cells = [cell for cell in table.own() if Place.of(cell) == place]
    return dict(table.scores[cells[0]]) if cells else {}


def seed_means(tables: Sequence[ScoreTable], place: Place) -> list[float]:
    """Of each seed that has values there, the mean over clips."""
    found = [list(own_values(table, place).values()) for table in tables]
    return [float(np.mean(values)) for values in found if values]
