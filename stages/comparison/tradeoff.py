"""What variants trade against each other: quality, control and depth, with the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from stages.comparison.bootstrap import Estimate, estimate
from stages.comparison.contrasts import CONTROL, DEPTH, PSNR, Place
from stages.comparison.score_table import ScoreTable
from stages.comparison.verdicts import own_values
from stages.drawing.figure import INK, figure_png, new_figure, style_axis
from stages.evaluation.columns import COLUMNS, gain

PANELS = ((CONTROL, PSNR), (DEPTH, PSNR), (DEPTH, CONTROL))
FRONT, OTHER = "#0969da", "#8c959f"


@dataclass(frozen=True)
class Point:
    label: str
    x: Estimate
    y: Estimate


def plot_tradeoff(tables: Sequence[ScoreTable]) -> bytes | None:
    """A panel for each pair of measures, a point for each variant with both; a PNG.

    On the front: no other variant is better in one and at least as good in the other, by the means.
    None if no pair has two points.
    """
    panels = [(pair, points) for pair in PANELS if len(points := points_of(tables, *pair)) > 1]
    if not panels:
        return None
    figure = new_figure(4.2 * len(panels), 3.6, "blue: the Pareto front; bars: 95 %, over episodes")
    axes = np.ravel(figure.subplots(1, len(panels), squeeze=False))
    for axis, ((x, y), points) in zip(axes, panels, strict=True):
        draw_panel(axis, x, y, points)
    return figure_png(figure)


def points_of(tables: Sequence[ScoreTable], x: Place, y: Place) -> list[Point]:
    found = []
    for table in tables:
        both = [mean_of(table, place) for place in (x, y)]
        if both[0] is not None and both[1] is not None:
            found.append(Point(table.label, both[0], both[1]))
    return found


def mean_of(table: ScoreTable, place: Place) -> Estimate | None:
    values = own_values(table, place)
    if not values:
        return None
    return estimate(list(values.values()), [table.episodes[clip] for clip in values])


def draw_panel(axis: Axes, x: Place, y: Place, points: Sequence[Point]) -> None:
    front = pareto_front([(gain(x.metric, p.x.mean), gain(y.metric, p.y.mean)) for p in points])
    for i, point in enumerate(points):
        colour = FRONT if i in front else OTHER
        axis.errorbar(
            point.x.mean, point.y.mean, xerr=bar(point.x), yerr=bar(point.y),
            fmt="o", color=colour, ecolor=colour, elinewidth=0.7, markersize=4,
        )  # fmt: skip
        axis.annotate(
            point.label, (point.x.mean, point.y.mean), xytext=(4, 4),
            textcoords="offset points", fontsize=6, color=INK,
        )  # fmt: skip
    joined = sorted((points[i].x.mean, points[i].y.mean) for i in front)
    axis.plot(*zip(*joined, strict=True), color=FRONT, linewidth=1)
    style_axis(axis, f"{COLUMNS[y.metric][0]} over {COLUMNS[x.metric][0]}")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one beats: larger is better, in both."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    ]


def bar(found: Estimate) -> list[list[float]] | None:
    if found.interval is None:
        return None
    low, high = found.interval
    return [[max(0.0, found.mean - low)], [max(0.0, high - found.mean)]]
