"""What becomes of the objects over the horizon: PSNR inside them, and how many are present."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stages.drawing.figure import INK, figure_png, new_figure, style_axis
from stages.evaluation.objects import (
    MOVED_OBJECTS,
    OBJECTS,
    RESTING_OBJECTS,
    MethodSightings,
    in_region,
    pooled,
)
from stages.evaluation.scores import CEILING, COPY, FREE, MODEL
from stages.objects.object_scores import object_scores
from stages.objects.sightings import Sighting

PANELS = (
    ("PSNR inside objects (dB)", OBJECTS, "psnr"),
    ("present, objects at rest", RESTING_OBJECTS, "present"),
    ("present, moved objects", MOVED_OBJECTS, "present"),
)
STYLES = {MODEL: ("#0969da", "-"), COPY: ("#bc4c00", "--"), CEILING: ("#57606a", ":")}


def plot_horizon(
    clips: Sequence[Sequence[MethodSightings]], n_frames: int, rate_hz: float
) -> bytes:
    """Three panels over time, free-running: the model, the copy of frame 0, the ceiling; a PNG.

    clips: of each one the objects, by method.
    """
    seen = {method: pooled(clips, FREE, method) for method in STYLES}
    title = f"objects of {len(clips)} held-out clips, free-running from frame 0"
    figure = new_figure(10.2, 2.9, title)
    seconds = np.arange(n_frames) / rate_hz
    axes = np.ravel(figure.subplots(1, len(PANELS), squeeze=False))
    for axis, (heading, region, metric) in zip(axes, PANELS, strict=True):
        for method, (colour, line) in STYLES.items():
            values = by_frame(seen[method], region, metric, n_frames)
            axis.plot(seconds, values, color=colour, linestyle=line, label=method, linewidth=1.6)
        style_axis(axis, heading)
        axis.set_xlabel("s", fontsize=7, color=INK)
        if metric == "present":
            axis.set_ylim(-0.03, 1.03)
    axes[0].legend(fontsize=7, frameon=False, labelcolor=INK)
    return figure_png(figure)


def by_frame(
    seen: Sequence[Sighting], region: str, metric: str, n_frames: int
) -> Float[np.ndarray, " t"]:
    """One of `ObjectScores` at each frame, all clips together; NaN where there is no object."""
    values = np.full(n_frames, np.nan)
    for t in range(n_frames):
        scores = object_scores([s for s in seen if s.frame == t and in_region(s, region)])
        if scores is not None:
            values[t] = getattr(scores, metric)
    return values
