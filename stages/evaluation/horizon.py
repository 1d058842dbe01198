"""What becomes of the objects over the horizon: PSNR inside them, and how many are present."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stages.drawing.loss_plot import FAINT, INK
from stages.evaluation.objects import (
    MOVED_OBJECTS,
    RESTING_OBJECTS,
    MethodSightings,
    in_region,
    pooled,
    psnr_by_frame,
)
from stages.evaluation.scores import CEILING, COPY, FREE, MODEL
from stages.objects.sightings import Sighting

STYLES = {MODEL: ("#0969da", "-"), COPY: ("#bc4c00", "--"), CEILING: ("#57606a", ":")}


def plot_horizon(
    clips: Sequence[Sequence[MethodSightings]], n_frames: int, rate_hz: float
) -> bytes:
    """Three panels over time, free-running: the model, the copy of frame 0, the ceiling; a PNG.

    clips: of each one the objects, by method.
    """
    seen = {method: pooled(clips, FREE, method) for method in STYLES}
    figure = Figure(figsize=(10.2, 2.9), dpi=130, layout="constrained")
    title = f"objects of {len(clips)} held-out clips, free-running from frame 0"
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    axes = np.ravel(figure.subplots(1, 3, squeeze=False))
    seconds = np.arange(n_frames) / rate_hz
    for method, (colour, line) in STYLES.items():
        style = {"color": colour, "linestyle": line, "label": method, "linewidth": 1.6}
        axes[0].plot(seconds, psnr_by_frame(seen[method], n_frames), **style)
        for axis, region in zip(axes[1:], (RESTING_OBJECTS, MOVED_OBJECTS), strict=True):
            axis.plot(seconds, presence_by_frame(seen[method], region, n_frames), **style)
    titles = ("PSNR inside objects (dB)", "present, objects at rest", "present, moved objects")
    for axis, text in zip(axes, titles, strict=True):
        finish(axis, text)
    axes[0].legend(fontsize=7, frameon=False, labelcolor=INK)
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink, metadata={"Software": None})
    return sink.getvalue()


def presence_by_frame(
    seen: Sequence[Sighting], region: str, n_frames: int
) -> Float[np.ndarray, " t"]:
    """The share of a region's objects that is present at each frame; NaN where there is none."""
    shares = np.full(n_frames, np.nan)
    for t in range(n_frames):
        there = [s.present for s in seen if s.frame == t and in_region(s, region)]
        if there:
            shares[t] = np.mean(there)
    return shares


def finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9, color=INK, loc="left")
    if "present" in title:
        axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel("s", fontsize=7, color=INK)
    axis.tick_params(labelsize=7, colors=INK)
    axis.grid(color=FAINT, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
