"""The measures of `label_quality`, the flags that they set, and how others read them.

`stages.flags` counts, limits and drops them, together with those of the recording.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from stages.flag_counts import Flagged
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Measure:
    """limit: the stage's field that bounds it, `max_...` from above, `min_...` from below.

    NaN means not measured and is never out of limits; only a measure that `can_lack` may be NaN.
    short: its name in the captions of pictures, if it is shown there. text: format of its values.
    """

    name: str
    about: str
    flag: str
    limit: str
    short: str = ""
    units: str = "1"
    text: str = "{:.0%}"
    can_lack: bool = False

    @property
    def is_upper(self) -> bool:
        return self.limit.startswith("max_")

    def violates(self, value: float, limit: float) -> bool:
        return value > limit if self.is_upper else value < limit

    def worst(self, values: Float[np.ndarray, " n"]) -> int:
        """The index of the worst value, be it within the limit or not. Not all may be NaN."""
        return int(np.nanargmax(values) if self.is_upper else np.nanargmin(values))


MEASURES = (
    Measure(
        name="flicker",
        about="change of inverse depth from one frame to the next where the picture does not "
        "change, as a share of the clip's range: trimmed mean over pixels, mean over frames; NaN "
        "if hardly a pixel stays as it is",
        short="flicker",
        flag="flicker",
        limit="max_flicker",
        text="{:.2%}",
        can_lack=True,
    ),
    Measure(
        name="flicker_peak",
        about="the same of the worst frame alone",
        flag="depth_jump",
        limit="max_flicker_peak",
        text="{:.2%}",
        can_lack=True,
    ),
    Measure(
        name="depth_range",
        about="1 - far / near of the ends of the clip's range of inverse depths; 0 is a flat scene",
        short="range",
        flag="flat_depth",
        limit="min_depth_range",
        text="{:.2f}",
    ),
    Measure(
        name="depth_known",
        about="share of the pixels with a depth",
        flag="depth_holes",
        limit="min_depth_known",
    ),
    Measure(
        name="visible_share",
        about="share of the points that are visible and in the frame, over the frames after the "
        "first",
        short="visible",
        flag="tracks_hidden",
        limit="min_visible_share",
    ),
    Measure(
        name="fb_error",
        about="how far forward tracking and back again end apart for each frame on the way, as a "
        "share of the picture's longer side: median of visible points that were followed; NaN "
        "where the annotator measured none",
        short="f-b",
        flag="fb_error",
        limit="max_fb_error",
        text="{:.2%}",
        can_lack=True,
    ),
    Measure(
        name="repeated_frames",
        about="frames whose picture or depth is that of the frame before: a camera or recorder "
        "that hangs",
        flag="repeated_frames",
        limit="max_repeated_frames",
        text="{:.0f}",
    ),
)
FLAGS = tuple(measure.flag for measure in MEASURES)  # bit i of `flags` is FLAGS[i]
NO_FLAGS = 255  # of a clip without labels; no other clip can have it, as the last bit is free
assert len(FLAGS) < 8, FLAGS


def label_flags(quality: Rows, rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows of the store `label_quality`."""
    found = quality.gather("flags", rows)
    return {name: (found >> bit & 1).astype(bool) for bit, name in enumerate(FLAGS)}


def flag_names(flags: int) -> list[str]:
    return [name for bit, name in enumerate(FLAGS) if flags >> bit & 1]


def flag_counts(flags: UInt8[np.ndarray, " n"]) -> dict[str, int]:
    """How many clips have each flag; flags that no clip has are left out."""
    counts = {name: int((flags >> bit & 1).sum()) for bit, name in enumerate(FLAGS)}
    return {name: count for name, count in counts.items() if count}


def all_flags(quality: Rows) -> UInt8[np.ndarray, " n"]:
    """The flags of every clip that has labels."""
    return quality.gather("flags", np.flatnonzero(quality.ok))


def flag_summary(quality: Rows) -> str:
    flags = all_flags(quality)
    summary = f"{len(flags)} clips, {int((flags > 0).sum())} of them flagged"
    counts = ", ".join(f"{name} {count}" for name, count in flag_counts(flags).items())
    return f"{summary}: {counts}" if counts else summary


def quality_note(quality: Mapping[str, np.ndarray]) -> str:
    """A clip's main numbers in one line, and its flags, if any, in another."""
    values = {m: float(quality[m.name]) for m in MEASURES if m.short}
    shown = {m: value for m, value in values.items() if not np.isnan(value)}
    note = ", ".join(f"{m.short} {m.text.format(value)}" for m, value in shown.items())
    flags = flag_names(int(quality["flags"]))
    return f"{note}\nflagged: {', '.join(flags)}" if flags else note
