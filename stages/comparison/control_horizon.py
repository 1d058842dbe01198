"""ΔPSNR over the horizon: from when to when other actions make another video."""

from collections.abc import Sequence
from itertools import groupby

from stages.comparison.bootstrap import Estimate, estimate
from stages.comparison.page import interval_text
from stages.comparison.score_table import ScoreTable
from stages.drawing.markdown import markdown_table, plain
from stages.evaluation.columns import COLUMNS
from stages.evaluation.controls import FORM_NAMES, FORMS
from stages.evaluation.scores import CAMERA, FRAME, FREE

SHOWN_AT = 5  # times, evenly over the clip


def control_table(tables: Sequence[ScoreTable], rate_hz: float) -> str:
    """Free-running, against the camera, whole frames; a row for each model and form; or empty."""
    curves = {
        (table.label, form): curve
        for table in tables
        for form in FORMS
        if (curve := by_frame(table, form))
    }
    if not curves:
        return ""
    last = max(frame for curve in curves.values() for frame in curve)
    times = [round(last * (i + 1) / SHOWN_AT) for i in range(min(SHOWN_AT, last))]
    rows = [
        (
            f"{plain(label)}, {FORM_NAMES[form]}",
            *(at_frame(curve.get(frame), form) for frame in times),
            steered(curve, rate_hz),
        )
        for (label, form), curve in curves.items()
    ]
    return markdown_table(("", *(f"{frame / rate_hz:.1f} s" for frame in times), "steered"), rows)


def by_frame(table: ScoreTable, form: str) -> dict[int, Estimate]:
    """Of each frame, with its interval over episodes; empty where the form was not measured."""
    wanted = (FREE, CAMERA, FRAME, form)
    for cell, frames in table.frames.items():
        if (cell.protocol, cell.reference, cell.region, cell.metric) == wanted:
            return {
                frame: estimate(list(values.values()), [table.episodes[clip] for clip in values])
                for frame, values in sorted(frames.items())
                if values
            }
    return {}


def at_frame(found: Estimate | None, form: str) -> str:
    if found is None:
        return "–"
    number = COLUMNS[form][1]
    return f"{found.mean:{number}}" + interval_text(found, number)


def steered(curve: dict[int, Estimate], rate_hz: float) -> str:
    """The longest time through which the interval lies above 0 in every frame."""
    if all(found.interval is None for found in curve.values()):
        return "too few episodes"
    above = groupby(curve, key=lambda frame: curve[frame].sign > 0)
    runs = [list(frames) for is_above, frames in above if is_above]
    if not runs:
        return "never"
    longest = max(runs, key=len)
    return f"{longest[0] / rate_hz:.1f} to {longest[-1] / rate_hz:.1f} s"
