"""Clip, depth and keypoints -> label quality: what a clip's labels show without truth, and flags.

Each of `measures.MEASURES` is one number a clip; out of the stage's limit it sets a bit in `flags`.
Nothing is left out here: training may drop flagged clips, reports count them. `label_scores`
measures the accuracy of labels where the truth is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import cv2
import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float, Float32, UInt8

from stages.base import Arrays, ClipFunction, ClipStage, Inputs, Resources, per_clip
from stages.drawing.pictures import spread
from stages.flag_counts import check_share, check_share_field
from stages.label_quality.contact_sheet import CLIPS, SheetClip, label_rows, label_sheet
from stages.label_quality.labels import LABEL_ARRAYS, AnnotatorInfo, Labels, read_labels
from stages.label_quality.measures import (
    FLAGS,
    MEASURES,
    NO_FLAGS,
    Measure,
    flag_summary,
    label_flags,
    quality_note,
)
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec

SHEET_FRAMES = 3

Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class LabelQuality(ClipStage):
    """The limits, and when a pixel counts as still.

    The limits are ours. The comments beside them give the worst value in 90 clips of 30 simulated
    episodes (the demo's sample at 128 px, labels by `sensor` and `lucas-kanade`), so that what
    exceeds a limit is an outlier for a worse annotator, too.

    A pixel is still from one frame to the next if, in a mean over a square of `still_window_px`, no
    channel changes by more than `still_levels` of 255. The mean removes noise and shows a thing
    that passes close by. It does not show a plain thing that moves within its own outline, 0.6 % of
    the still pixels there; for that, and for edges of depth, the largest `trim` of a frame's
    changes are left out. A frame of which less than `min_still` is still has no flicker value:
    where the camera moves some pixels look alike by chance.
    """

    # 0.0005; independent noise of 1 % of the range in every pixel gives 0.01
    max_flicker: Annotated[float, Ge(0)] = 0.02
    # 0.002; one frame whose inverse depth is 1.3 times too large gives 0.1 or more
    max_flicker_peak: Annotated[float, Ge(0)] = 0.05
    min_depth_range: Annotated[float, Ge(0)] = 0.1  # 0.81
    min_depth_known: Annotated[float, Interval(ge=0, le=1)] = 0.8  # 0.98
    min_visible_share: Annotated[float, Interval(ge=0, le=1)] = 0.5  # 0.67
    max_fb_error: Annotated[float, Ge(0)] = 0.004  # 0.0023: 0.29 px of 128
    max_repeated_frames: Annotated[int, Ge(0)] = 0  # 0
    still_levels: Annotated[float, Ge(0)] = 3.0
    still_window_px: Annotated[int, Interval(ge=1, le=255)] = 5
    min_still: Annotated[float, Interval(gt=0, le=1)] = 0.2
    trim: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    # Mean change of a picture, of 255, up to which it counts as repeated; a pause has 0.18
    repeat_levels: Annotated[float, Ge(0)] = 0.1
    # Of the clips that may have a flag; more fail the run
    max_flagged_share: Annotated[float, Interval(ge=0, le=1)] = field(
        default=1.0, metadata={"key": False}
    )

    name: ClassVar[str] = "label_quality"
    version: ClassVar[int] = 2
    inputs: ClassVar[Inputs] = {
        **LABEL_ARRAYS,
        "keypoints": (*LABEL_ARRAYS["keypoints"], "fb_error"),
    }
    resources: ClassVar[Resources] = Resources(memory_gb=0.5, clips_per_shard=64)
    preview_clips: ClassVar[int] = CLIPS

    def __post_init__(self) -> None:
        if not (0 <= self.trim < 1 and 0 < self.min_still <= 1 and self.still_window_px >= 1):
            raise ValueError(
                f"trim={self.trim}, min_still={self.min_still}, still_window_px="
                f"{self.still_window_px}: expected shares 0 <= trim < 1 and 0 < min_still <= 1, "
                "and a window of 1 or more"
            )
        check_share_field("label_quality.max_flagged_share", self.max_flagged_share)

    def check_made(self, own: Rows) -> None:
        if self.max_flagged_share >= 1:
            return
        rows, setting = np.flatnonzero(own.ok), "label_quality.max_flagged_share"
        found = label_flags(own, rows)
        check_share(found, len(rows), self.max_flagged_share, str(own.ref), setting)

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        bits = ", ".join(f"{1 << bit} {flag}" for bit, flag in enumerate(FLAGS))
        about = f"0, or what is beyond its limit: {bits}"

        def spec(m: Measure) -> ArraySpec:
            fill = np.nan if m.can_lack else -1.0
            return ArraySpec(m.name, "float32", (), (), m.units, m.about, "raw", fill)

        flags = ArraySpec("flags", "uint8", (), (), "1", about, "raw", NO_FLAGS)
        return (*(spec(measure) for measure in MEASURES), flags)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        return per_clip(self.measure)

    def measure(self, *, fb_error: Float32[np.ndarray, "t p"], **arrays: np.ndarray) -> Arrays:
        """The outputs of one clip, from the arrays of `Labels`."""
        values = self.values(Labels(**arrays), fb_error)
        made: Arrays = {name: np.array(value, np.float32) for name, value in values.items()}
        return made | {"flags": np.array(self.flags(values), np.uint8)}

    def values(self, clip: Labels, fb_error: Float32[np.ndarray, "t p"]) -> Values:
        low, high = clip.inverse_depth_range.astype(np.float64).tolist()
        still = still_pixels(clip.rgb, self.still_levels, self.still_window_px)
        still &= clip.valid[1:] & clip.valid[:-1]
        scaled = clip.inverse_depth / np.float32(high - low)
        pairs = flicker(scaled, still, self.min_still, self.trim)
        shown = clip.visible & in_frame(clip.tracks, clip.rgb.shape[1:3])
        repeated = repeats(clip.rgb, self.repeat_levels) | repeats(clip.inverse_depth, 0.0)
        return {
            "flicker": float(pairs.mean()) if pairs.size else np.nan,
            "flicker_peak": float(pairs.max()) if pairs.size else np.nan,
            "depth_range": (high - low) / max(abs(low), abs(high)),
            "depth_known": float(clip.valid.mean()),
            "visible_share": float(shown[1:].mean()),
            "fb_error": median_fb_error(fb_error, clip.visible) / max(clip.rgb.shape[1:3]),
            "repeated_frames": float(repeated.sum()),
        }

    def flags(self, values: Values) -> int:
        out = (m.violates(values[m.name], float(getattr(self, m.limit))) for m in MEASURES)
        return sum(1 << bit for bit, is_out in enumerate(out) if is_out)

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The data set's contact sheet."""
        annotators = {role: AnnotatorInfo.of(inputs[role]) for role in ("depth", "keypoints")}
        clips = []
        for row in picks:
            labels = read_labels(inputs, row)
            note = quality_note(own.read([spec.name for spec in self.outputs], row))
            drawn = label_rows(labels, annotators, spread(len(labels.rgb), SHEET_FRAMES))
            clips.append(SheetClip(title=f"clip {own.clip_ids[row]}", note=note, rows=drawn))
        return label_sheet(clips, title="Labels", note=flag_summary(own))


# Numbers of one clip


def still_pixels(
    rgb: UInt8[np.ndarray, "t h w 3"], levels: float, window_px: int
) -> Bool[np.ndarray, "i h w"]:
    """Which pixels do not change from each frame to the next, as `LabelQuality` defines it."""
    smooth = np.stack([cv2.blur(frame.astype(np.float32), (window_px, window_px)) for frame in rgb])
    return np.all(np.abs(np.diff(smooth, axis=0)) <= levels, axis=-1)


def flicker(
    depth: Float[np.ndarray, "t h w"],
    still: Bool[np.ndarray, "i h w"],
    min_still: float,
    trim: float,
) -> Float[np.ndarray, " n"]:
    """Mean change of `depth` from each frame to the next over its still pixels.

    The largest share `trim` is left out, and frames of which less than `min_still` is still.
    """
    pairs = []
    for before, after, at in zip(depth[:-1], depth[1:], still, strict=True):
        if at.mean() >= min_still:
            change = np.sort(np.abs(after[at].astype(np.float32) - before[at]))
            pairs.append(change[: max(1, round((1 - trim) * len(change)))].mean())
    return np.array(pairs, np.float32)


def in_frame(
    tracks: Float32[np.ndarray, "t p 2"], size: tuple[int, int]
) -> Bool[np.ndarray, "t p"]:
    height, width = size
    return np.all((tracks >= -0.5) & (tracks < (width - 0.5, height - 0.5)), axis=-1)


def median_fb_error(
    fb_error: Float32[np.ndarray, "t p"], visible: Bool[np.ndarray, "t p"]
) -> float:
    """Over what was measured: neither 0, a point that was not tracked there, nor NaN."""
    followed = fb_error[visible & (fb_error > 0)]
    return float(np.median(followed)) if followed.size else np.nan


def repeats(frames: np.ndarray, tolerance: float) -> Bool[np.ndarray, " i"]:
    """Which frames after the first differ from the one before by at most `tolerance` on average."""
    change = np.abs(np.diff(frames.astype(np.float32), axis=0))
    return change.reshape(len(change), -1).mean(axis=1) <= tolerance
