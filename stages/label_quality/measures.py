"""What `label_quality` measures of a clip, the flags that it sets, and how others read them.

Training drops flagged rows with `unflagged`; reports use the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Measure:
    """limit: the stage's field that bounds it, `max_...` from above, `min_...` from below. NaN,
    that is not measured, is always within; only a measure that `can_lack` may be NaN. short: its
    name in the captions of pictures, if it is among them. text: how its values are written.
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

    def beyond(self, value: float, limit: float) -> bool:
        return value > limit if self.is_upper else value < limit

    def worst(self, values: Float[np.ndarray, " n"]) -> int:
        """Which of the values, not all of them NaN, is nearest to the limit or farthest beyond it."""
        return int(np.nanargmax(values) if self.is_upper else np.nanargmin(values))


MEASURES = (
    Measure(
        name="flicker",
        about="change of inverse depth from one frame to the next where the picture does not change, as a share of the "
        "clip's range: trimmed mean over pixels, mean over frames; NaN if hardly a pixel stays as it is",
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
        about="share of the points that are visible and in the frame, over the frames after the first",
        short="visible",
        flag="tracks_hidden",
        limit="min_visible_share",
    ),
    Measure(
        name="fb_error",
        about="how far forward tracking and back again end apart for each frame on the way, as a share of the "
        "picture's longer side: median of visible points that were followed; NaN where the annotator measured none",
        short="f-b",
        flag="fb_error",
        limit="max_fb_error",
        text="{:.2%}",
        can_lack=True,
    ),
    Measure(
        name="repeated_frames",
        about="frames whose picture or depth is that of the frame before: a camera or recorder that hangs",
        flag="repeated_frames",
        limit="max_repeated_frames",
        text="{:.0f}",
    ),
)
FLAGS = tuple(measure.flag for measure in MEASURES)  # bit i of `flags` is FLAGS[i]
NO_FLAGS = 255  # in the row of a clip that has no labels; no clip can have it, the last bit is free
assert len(FLAGS) < 8, FLAGS


def unflagged(quality: Rows, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which of these rows of store `label_quality` have no flag: `rows[unflagged(quality, rows)]`
    drops the others.
    """
    return quality.gather("flags", rows) == 0


def flag_names(flags: int) -> list[str]:
    return [name for bit, name in enumerate(FLAGS) if flags >> bit & 1]


def flag_counts(flags: UInt8[np.ndarray, " n"]) -> dict[str, int]:
    """How many clips have each flag, those that none has left out."""
    counts = {name: int((flags >> bit & 1).sum()) for bit, name in enumerate(FLAGS)}
    return {name: count for name, count in counts.items() if count}


def all_flags(quality: Rows) -> UInt8[np.ndarray, " n"]:
    """Those of every clip that has labels."""
    return quality.gather("flags", np.flatnonzero(quality.ok))


def flag_summary(quality: Rows) -> str:
    flags = all_flags(quality)
    counts = ", ".join(f"{name} {count}" for name, count in flag_counts(flags).items())
    return f"{len(flags)} clips, {int((flags > 0).sum())} of them flagged" + (
        f": {counts}" if counts else ""
    )


def quality_note(quality: Mapping[str, np.ndarray]) -> str:
    """A clip's main numbers in a line, and its flags in another if it has any."""
    values = {m: float(quality[m.name]) for m in MEASURES if m.short}
    said = [
        f"{m.short} {m.text.format(value)}" for m, value in values.items() if not np.isnan(value)
    ]
    flags = flag_names(int(quality["flags"]))
    return "\n".join([", ".join(said), *(["flagged: " + ", ".join(flags)] if flags else [])])
