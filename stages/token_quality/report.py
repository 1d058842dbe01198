"""The page and the table of `token_quality`: verdict first, then numbers with their limits."""

from collections.abc import Mapping, Sequence

from stages.drawing.csv_table import csv_table
from stages.drawing.markdown import markdown_table
from stages.objects.object_scores import object_scores
from stages.token_quality.measures import (
    MEASURES,
    ClipQuality,
    Values,
    is_judged,
    means,
    object_values,
    out_of_limits,
    smallest_px,
)

FLAGGED_SHOWN = 20


def page(clips: Sequence[ClipQuality], limits: Mapping[str, float], side: int) -> str:
    """Markdown. side: of a frame, in px."""
    values, flagged = means(clips), flagged_table(clips, limits)
    sections = [
        "# What the tokens keep",
        verdict(values, clips, limits, side),
        numbers_table(values, clips, limits),
        *([flagged] if flagged else []),
        *notes(clips),
    ]
    return "\n\n".join(sections) + "\n"


def verdict(
    values: Values, clips: Sequence[ClipQuality], limits: Mapping[str, float], side: int
) -> str:
    """Good, or what is lost; with masks also how small an object may be. values: the means."""
    broken = out_of_limits(values, limits)
    n_flagged = sum(bool(out_of_limits(clip.values, limits)) for clip in clips)
    counted = f"{n_flagged} of {len(clips)} held-out clips are out of a limit."
    found = "; ".join(f"{m.label} {m.text.format(values[m.name])}" for m in broken)
    start = f"**Not good**: {found}." if broken else "**Good**: within all limits."
    if not is_judged(values):
        start = "**Not judged**: these frames have no colours to keep, and no masks of objects."
    return " ".join([start, held(clips, limits["min_named"], side), counted])


def held(clips: Sequence[ClipQuality], min_named: float, side: int) -> str:
    n = sum(len(clip.seen) for clip in clips)
    if not n:
        return (
            "This source has no masks of objects, so what is known is how much of the colours and "
            "of the detail is kept."
        )
    smallest = smallest_px(clips, min_named, side)
    share = f"at least {min_named:.0%} of them are named rightly by colour"
    if smallest is None:
        return f"These tokens do not hold objects of any size seen here ({n} sightings)."
    return f"These tokens hold objects from {smallest:.0f} px on ({share}; {n} sightings)."


def numbers_table(values: Values, clips: Sequence[ClipQuality], limits: Mapping[str, float]) -> str:
    erased = object_values([seen for clip in clips for seen in clip.erased])
    lines = []
    for m in MEASURES:
        if m.name in values:
            control = m.text.format(erased[m.name]) if m.name in erased else "–"
            sign = "≤" if m.limit.startswith("max_") else "≥"
            limit = f"{sign} {m.text.format(limits[m.limit])}" if m.limit else ""
            lines.append((m.label, m.text.format(values[m.name]), control, limit))
    columns = ("held-out clips", "decoded tokens", "control: objects erased", "limit")
    return markdown_table(columns, lines)


def flagged_table(clips: Sequence[ClipQuality], limits: Mapping[str, float]) -> str:
    """The clips that break a limit, those that break most first; empty if there are none."""
    rows = [
        (
            f"`{clip.clip_id}`",
            ", ".join(f"{m.label} {m.text.format(clip.values[m.name])}" for m in broken),
        )
        for clip in clips
        if (broken := out_of_limits(clip.values, limits))
    ]
    rows.sort(key=lambda row: -row[1].count(","))
    return markdown_table(("flagged clip", "because"), rows[:FLAGGED_SHOWN]) if rows else ""


def notes(clips: Sequence[ClipQuality]) -> list[str]:
    lines = [
        "Colours kept: in the most colourful tenth of a frame's 16 x 16 squares, 1 - the squared "
        "error of the chroma over its squared distance from the frame's usual tint. Most detailed "
        "tenth: the squares within which colours vary most."
    ]
    scores = object_scores([seen for clip in clips for seen in clip.seen])
    if scores is not None:
        lines.append(
            f"Objects: {scores.n} sightings of at least 40 px of 128 x 128, by exact masks. Named "
            "rightly: the mean colour under the mask is nearest to that object's, of all objects "
            "in the frame. Still there: near its place, its surroundings among the choices. The "
            "control has every object filled with the colour around it."
        )
    return ["\n".join(f"- {line}" for line in lines)]


def table(clips: Sequence[ClipQuality], limits: Mapping[str, float]) -> bytes:
    """CSV: a row a clip; a cell is empty where nothing was measured."""
    names = [m.name for m in MEASURES]
    rows = (
        (
            clip.clip_id,
            *(clip.values.get(name) for name in names),
            len(clip.seen),
            " ".join(m.name for m in out_of_limits(clip.values, limits)),
        )
        for clip in clips
    )
    return csv_table(("clip", *names, "sightings", "out_of_limits"), rows)
