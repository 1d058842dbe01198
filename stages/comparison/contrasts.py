"""Score tables of several models -> means and paired differences, with intervals.

Only clips that all models were scored on, and of those, for each difference, the ones in which
both sides have a value. The first model is what the others are compared with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.comparison.bootstrap import Estimate, estimate
from stages.comparison.score_table import ByClip, ScoreTable
from stages.evaluation.columns import COLUMNS, REGIONS, gain
from stages.evaluation.controls import GAUSSIAN
from stages.evaluation.scores import (
    BASELINES,
    CAMERA,
    DECODED,
    EDGES,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    MOVING,
    PROTOCOLS,
    PSEUDO_DEPTH,
    PSEUDO_TRACKS,
    REFERENCES,
    STILL,
    TRUE_DEPTH,
    Cell,
)

# What a reference, region or metric is made with: with two of one, scores do not compare
MADE_WITH = {
    DECODED: ("rgb_tokens",),
    MOVING: ("rgb_tokens",),
    STILL: ("rgb_tokens",),
    PSEUDO_DEPTH: ("depth",),
    EDGES: ("depth",),
    ESTIMATED_DEPTH: ("depth_annotator",),
    PSEUDO_TRACKS: ("keypoints", "tracker"),
    GAUSSIAN: ("gaussian_draws",),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is measured, whoever made the video. See `Cell`."""

    metric: str
    protocol: str = FREE
    reference: str = CAMERA
    region: str = FRAME

    @classmethod
    def of(cls, cell: Cell) -> "Place":
        return cls(
            protocol=cell.protocol,
            reference=cell.reference,
            region=cell.region,
            metric=cell.metric,
        )

    @property
    def order(self) -> tuple[int, ...]:
        orders = (PROTOCOLS, REFERENCES, REGIONS, tuple(COLUMNS))
        names = (self.protocol, self.reference, self.region, self.metric)
        return tuple(order.index(name) for order, name in zip(orders, names, strict=True))


PSNR, CONTROL = Place(metric="psnr"), Place(metric="delta_psnr")
# Depth as the model's own branch predicts it, and as an annotator sees it in the video; aligned,
# since the published annotator has no units
DEPTH = Place(metric="abs_rel_aligned", reference=PSEUDO_DEPTH)
ESTIMATED = Place(metric="abs_rel_aligned", reference=ESTIMATED_DEPTH)
DEPTH_BY_TRUTH = Place(metric="abs_rel", reference=TRUE_DEPTH)
EDGE_SHARPNESS = Place(metric="edge_sharpness", region=EDGES)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model or baseline in one place.

    difference: to the first model, in the metric's unit; None for itself, and where they share
    no clip. gained: the same of `gain`, so that above 0 is better. better, equal: of `n`
    episodes, by the mean gain over the episode's clips.
    """

    place: Place
    who: str
    value: Estimate
    difference: Estimate | None = None
    gained: Estimate | None = None
    better: int = 0
    equal: int = 0

    @property
    def verdict(self) -> str:
        """Whether it is better than the first model, by the interval of what it gained."""
        if self.gained is None:
            return ""
        if self.gained.interval is None:
            return "too few episodes"
        return {1: "better", -1: "worse", 0: "undecided"}[self.gained.sign]


@dataclass(frozen=True, kw_only=True)
class SetValue:
    """A number of all clips together, such as FVD: it has no interval."""

    place: Place
    who: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """rows: by place, the models in order, then baselines. of_all: likewise. clips: that all have
    in common.

    left_out: of each model the clips that it alone, or not all, were scored on. apart: places
    that were left out, and why.
    """

    labels: Sequence[str]
    rows: Sequence[Row]
    of_all: Sequence[SetValue]
    clips: Sequence[str]
    n_episodes: int
    left_out: Mapping[str, Sequence[str]]
    apart: Sequence[str]


def compare(tables: Sequence[ScoreTable]) -> Comparison:
    """Raises ValueError for tables that share no clips, or were scored on different clip stores."""
    check_alike(tables)
    common = set.intersection(*(table.clips for table in tables))
    if not common:
        counts = ", ".join(f"{table.label} {len(table.clips)}" for table in tables)
        raise ValueError(
            f"no clip was scored for all of them (clips: {counts}): score them on the same split "
            "and number of clips"
        )
    first, episodes = tables[0], tables[0].episodes
    entries = values_by_place(tables, common)
    rows = []
    for place, by_who in entries.items():
        ours = by_who.get(first.label, {})
        for who, values in by_who.items():
            rows.append(row_of(place, who, values, {} if who == first.label else ours, episodes))
    return Comparison(
        labels=[table.label for table in tables],
        rows=rows,
        of_all=of_all_clips(tables) if all(t.clips == common for t in tables) else [],
        clips=sorted(common),
        n_episodes=len({episodes[clip] for clip in common}),
        left_out={t.label: sorted(t.clips - common) for t in tables if t.clips - common},
        apart=list(apart(tables)),
    )


def check_alike(tables: Sequence[ScoreTable]) -> None:
    labels = [table.label for table in tables]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(
            f"labels {', '.join(labels)}: expected two or more, each another; name them by "
            "LABEL=STORE"
        )
    first = tables[0]
    for table in tables[1:]:
        ours, theirs = (t.inputs.get("clip", "?") for t in (first, table))
        if ours != theirs:
            raise ValueError(
                f"{first.label} was scored on the clips {ours}, {table.label} on {theirs}: their "
                "frames may differ in size or source. Score both on the same clips"
            )


def values_by_place(
    tables: Sequence[ScoreTable], common: set[str]
) -> dict[Place, dict[str, ByClip]]:
    """(place, model or baseline) -> value of each common clip, where anyone has one."""
    found: dict[Place, dict[str, ByClip]] = {}
    places = {Place.of(cell) for table in tables for cell in table.scores}
    for place in sorted(places, key=lambda place: place.order):
        if differs(tables, place):
            continue
        by_who: dict[str, ByClip] = {}
        for table in tables:
            own = [cell for cell in table.own() if Place.of(cell) == place]
            for cell in own:
                by_who[table.label] = restricted(table.scores[cell], common)
        by_who |= baselines(tables, place, common)
        if any(by_who.values()):
            found[place] = {who: values for who, values in by_who.items() if values}
    return found


def of_all_clips(tables: Sequence[ScoreTable]) -> list[SetValue]:
    """Of tables on the same clips; each baseline once, as the first that has it says."""
    found: dict[tuple[Place, str], float] = {}
    for table in tables:
        for cell, value in table.of_all.items():
            who = cell.method if cell.method in BASELINES else table.label
            found.setdefault((Place.of(cell), who), value)
    order = [*(table.label for table in tables), *BASELINES]
    places = sorted(found, key=lambda key: (key[0].order, order.index(key[1])))
    return [SetValue(place=place, who=who, value=found[place, who]) for place, who in places]


def baselines(tables: Sequence[ScoreTable], place: Place, common: set[str]) -> dict[str, ByClip]:
    """Each baseline once if it is the same for all, else one for each model that has it."""
    found: dict[str, ByClip] = {}
    for method in BASELINES:
        cell = Cell(place.protocol, place.reference, place.region, method, place.metric)
        theirs = {
            table.label: restricted(table.scores[cell], common)
            for table in tables
            if cell in table.scores
        }
        if not theirs:
            continue
        if all(same(values, next(iter(theirs.values()))) for values in theirs.values()):
            found[method] = next(iter(theirs.values()))
        else:
            found |= {f"{method} ({label})": values for label, values in theirs.items()}
    return found


def same(one: ByClip, other: ByClip) -> bool:
    return one.keys() == other.keys() and np.allclose(
        list(one.values()), [other[clip] for clip in one], rtol=1e-5, atol=1e-5
    )


def restricted(values: ByClip, clips: set[str]) -> ByClip:
    return {clip: values[clip] for clip in sorted(values) if clip in clips}


def row_of(
    place: Place, who: str, values: ByClip, ours: ByClip, episodes: Mapping[str, str]
) -> Row:
    """`ours`: what it is compared with, empty for the first model itself."""
    clips = list(values)
    value = estimate(list(values.values()), [episodes[clip] for clip in clips])
    both = [clip for clip in clips if clip in ours]
    if not both:
        return Row(place=place, who=who, value=value)
    metric, names = place.metric, [episodes[clip] for clip in both]
    gains = [gain(metric, values[clip]) - gain(metric, ours[clip]) for clip in both]
    by_episode: dict[str, list[float]] = {}
    for name, gained in zip(names, gains, strict=True):
        by_episode.setdefault(name, []).append(gained)
    means = [float(np.mean(found)) for found in by_episode.values()]
    return Row(
        place=place,
        who=who,
        value=value,
        difference=estimate([values[clip] - ours[clip] for clip in both], names),
        gained=estimate(gains, names),
        better=sum(mean > 0 for mean in means),
        equal=sum(mean == 0 for mean in means),
    )


def differs(tables: Sequence[ScoreTable], place: Place) -> bool:
    """Whether what is measured here is not the same for all models that have it."""
    parts = (place.reference, place.region, place.metric)
    roles = [role for part in parts for role in MADE_WITH.get(part, ())]
    return any(len(set(used_by(tables, role).values())) > 1 for role in roles)


def used_by(tables: Sequence[ScoreTable], role: str) -> dict[str, str]:
    """By the label of each table that has it."""
    return {table.label: table.inputs[role] for table in tables if role in table.inputs}


def apart(tables: Sequence[ScoreTable]) -> Iterator[str]:
    if any(t.of_all for t in tables) and len({frozenset(t.clips) for t in tables}) > 1:
        yield "Not compared: FVD, which is of all clips together, since not all have the same ones."
    for what, roles in MADE_WITH.items():
        for role in roles:
            used = used_by(tables, role)
            if len(set(used.values())) > 1:
                name = COLUMNS[what][0] if what in COLUMNS else what
                made_with = ", ".join(f"{label}: {which}" for label, which in used.items())
                yield f"Not compared: {name}, which is not the same for all ({made_with})."
