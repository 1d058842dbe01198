"""A training's losses as a picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from stages.drawing.figure import INK, figure_png, new_figure, style_axis

COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#57606a")
WIDTH, HEIGHT = 3.4, 2.3  # of one panel, inches


def plot_losses(rows: Sequence[dict[str, float | int]], title: str) -> bytes:
    """A PNG with one panel per loss part: each step faint, its running mean dark, held-out points.

    rows: as `stages.training.run` logs them.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if is_loss(name)))
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = new_figure(WIDTH * n_columns, HEIGHT * n_rows + 0.4, title)
    axes = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
    for axis, name, colour in zip(axes, names, (COLOURS * len(names))[: len(names)], strict=False):
        plot_part(axis, rows, name, colour)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return figure_png(figure)


def plot_part(axis: Axes, rows: Sequence[dict[str, float | int]], name: str, colour: str) -> None:
    steps = np.array([row["step"] for row in rows if name in row])
    values = np.array([row[name] for row in rows if name in row])
    axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    mean = running_mean(values, max(1, len(values) // 20))
    axis.plot(steps, mean, color=colour, linewidth=1.6, label="training")
    held_out = [(row["step"], row[f"val/{name}"]) for row in rows if f"val/{name}" in row]
    if held_out:
        x, y = zip(*held_out, strict=True)
        axis.plot(x, y, "o-", color=INK, markersize=4, linewidth=0.8, label="held-out clips")
        axis.legend(fontsize=7, frameon=False, labelcolor=INK)
    style_axis(axis, name.replace("_", " "))


def running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Mean over the `width` values up to each one, fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def is_loss(name: str) -> bool:
    others = ("step", "learning_rate", "grad_norm", "seconds")
    return name not in others and not name.startswith(("val/", "rollout/"))
