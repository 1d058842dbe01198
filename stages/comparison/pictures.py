"""A comparison to look at: quality over the horizon, and the clips that differ most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
from matplotlib.axes import Axes

from stages.comparison.bootstrap import estimate
from stages.comparison.score_table import ByClip, ScoreTable
from stages.drawing.figure import INK, figure_png, new_figure, style_axis
from stages.drawing.pictures import (
    Frames8,
    Image8,
    Row,
    contact_sheet,
    png_bytes,
    spread,
    strip,
)
from stages.evaluation.columns import COLUMNS
from stages.evaluation.controls import FORMS
from stages.evaluation.scores import BASELINES, CAMERA, FRAME, FREE, Cell
from storage.stores.rows import ClipRows, find_row

PANELS = ("psnr", "ssim")
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700")
LINES = ("--", ":", "-.", (0, (1, 3)))
FRAMES_SHOWN, CLIPS_SHOWN, CELL_PX = 8, 6, 112


def plot_horizon(
    tables: Sequence[ScoreTable],
    clips: Sequence[str],
    rate_hz: float,
    panels: Sequence[str] = PANELS,
) -> bytes:
    """Free-running, against the camera, whole frames: means over clips with their intervals; PNG.

    A panel for each of these metrics. Baselines are those of the first model.
    """
    episodes = tables[0].episodes
    title = f"{len(clips)} clips, free-running against the camera (bands: 95 %, over episodes)"
    figure = new_figure(4.8 * len(panels), 3.2, title)
    axes = np.ravel(figure.subplots(1, len(panels), squeeze=False))
    for axis, metric in zip(axes, panels, strict=True):
        for table, colour in zip(tables, COLOURS * len(tables), strict=False):
            for curve in curves(table, metric, clips, own=True).values():
                draw_curve(axis, curve, episodes, rate_hz, table.label, colour)
        baselines = curves(tables[0], metric, clips, own=False)
        for (method, curve), line in zip(baselines.items(), LINES * len(baselines), strict=False):
            draw_curve(axis, curve, episodes, rate_hz, method, "#57606a", line)
        style_axis(axis, COLUMNS[metric][0])
        axis.set_xlabel("s", fontsize=7, color=INK)
    axes[0].legend(fontsize=6.5, frameon=False, labelcolor=INK, loc="upper right", ncols=2)
    return figure_png(figure)


def control_panels(tables: Sequence[ScoreTable]) -> list[str]:
    """The forms of ΔPSNR that some table has by frame."""
    found = {cell.metric for table in tables for cell in table.frames}
    return [form for form in FORMS if form in found]


def draw_most_different(
    tables: Sequence[ScoreTable], common: Sequence[str], clips: ClipRows, title: str
) -> bytes | None:
    """The clips that differ most between the first and the last table, a strip each; a PNG.

    common: ids of the clips that all have. None where no table kept videos.
    """
    strips = []
    for clip in most_different(tables[0], tables[-1], common):
        camera = clips.gather("rgb", np.array([find_row(clips, clip)]))[0]
        strips.append(draw_clip(clip, camera, tables, clips.rate_hz))
    drawn = [strip for strip in strips if strip is not None]
    return png_bytes(contact_sheet(drawn, title=title)) if drawn else None


Curve = list[tuple[int, ByClip]]  # frame, value of each clip


def curves(table: ScoreTable, metric: str, clips: Sequence[str], *, own: bool) -> dict[str, Curve]:
    """By method: the model's own, or those of the baselines beside it."""
    found: dict[str, Curve] = {}
    for cell, by_frame in table.frames.items():
        if is_shown(cell, metric) and (cell.method not in BASELINES) == own:
            chosen = [(t, {c: v[c] for c in clips if c in v}) for t, v in sorted(by_frame.items())]
            found[cell.method] = [(t, values) for t, values in chosen if values]
    return found


def is_shown(cell: Cell, metric: str) -> bool:
    shown = (FREE, CAMERA, FRAME, metric)
    return (cell.protocol, cell.reference, cell.region, cell.metric) == shown


def draw_curve(
    axis: Axes,
    curve: Curve,
    episodes: Mapping[str, str],
    rate_hz: float,
    label: str,
    colour: str,
    line: object = "-",
) -> None:
    found = [estimate(list(v.values()), [episodes[clip] for clip in v]) for _, v in curve]
    times, means = [t / rate_hz for t, _ in curve], [each.mean for each in found]
    axis.plot(times, means, color=colour, linestyle=line, label=label, linewidth=1.5)
    bands = [each.interval for each in found if each.interval is not None]
    if line == "-" and len(bands) == len(times):
        low, high = zip(*bands, strict=True)
        axis.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)


def most_different(one: ScoreTable, other: ScoreTable, clips: Sequence[str]) -> list[str]:
    """Of the common clips those with the largest PSNR difference, other minus one, both ways.

    From the largest gain to the largest loss; all of them if they are few.
    """
    first, second = (whole_frame_psnr(table) for table in (one, other))
    both = [clip for clip in clips if clip in first and clip in second]
    ranked = sorted(both, key=lambda clip: first[clip] - second[clip])
    if len(ranked) <= CLIPS_SHOWN:
        return ranked
    half = CLIPS_SHOWN // 2
    return ranked[:half] + ranked[-half:]


def whole_frame_psnr(table: ScoreTable) -> Mapping[str, float]:
    for cell in table.own():
        if is_shown(cell, "psnr"):
            return table.scores[cell]
    return {}


def draw_clip(
    clip: str, camera: Frames8, tables: Sequence[ScoreTable], rate_hz: float
) -> Image8 | None:
    """The camera's frames above each model's; None where none of them kept its video."""
    shown = spread(len(camera), FRAMES_SHOWN)
    rows: list[Row] = [("camera", camera[shown])]
    notes = []
    for table in tables:
        psnr = whole_frame_psnr(table).get(clip)
        notes.append(f"{table.label} {psnr:.1f} dB" if psnr is not None else table.label)
        video = table.video(clip)
        if video is not None:
            frames = read_video(video)
            at = [min(t, len(frames) - 1) for t in shown]
            rows.append((table.label, frames[at][:, : camera.shape[1], : camera.shape[2]]))
    if len(rows) == 1:
        return None
    columns = [f"{t / rate_hz:.1f} s" if t else "0 s (given)" for t in shown]
    title = f"clip {clip}, episode {tables[0].episodes[clip]}"
    return strip(rows, columns=columns, title=title, note=", ".join(notes), cell_px=CELL_PX)


def read_video(path: Path) -> Frames8:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
