"""The look that all plots share."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT = "#22272e", "#d0d7de"


def new_figure(width: float, height: float, title: str) -> Figure:
    """width, height: in inches."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def style_axis(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9, color=INK, loc="left")
    axis.tick_params(labelsize=7, colors=INK)
    axis.grid(color=FAINT, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)


def figure_png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink, metadata={"Software": None})
    return sink.getvalue()
