"""What people see of the labels' quality: a page of tables and a picture of a few clips."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from model import metrics
from stages.label_scores import MOVING_PX, LabelledClip, Scores, TrueLabels
from stages.pictures import Row, colour_depth, draw_tracks, spread, strip
from storage.rows import Rows
from storage.store import read_manifest

FRAMES_SHOWN = 6


@dataclass(frozen=True)
class Annotator:
    """Who made a store's labels, as its manifest says it."""

    name: str
    units: str
    stand_in_for: str

    @classmethod
    def of(cls, rows: Rows) -> "Annotator":
        about = read_manifest(rows.ref).attributes
        units = rows.spec("inverse_depth").units if "inverse_depth" in rows.specs else "px"
        return cls(str(about.get("annotator", "unknown")), units, str(about.get("stand_in_for", "")))


def report(means: Scores, n_clips: int, n_true: int, annotators: Mapping[str, Annotator]) -> str:
    """Markdown: who made the labels, and their scores beside what they must beat."""
    lines = ["# Label quality", ""]
    for role, a in annotators.items():
        lines.append(f"- {role}: **{a.name}**" + (f", a stand-in for {a.stand_in_for}" if a.stand_in_for else ""))
    lines += ["", f"{n_clips} clips looked at; {n_true} have exact ground truth beside them."]
    if n_true == 0:
        lines.append("Without ground truth nothing can be said here about how right the labels are.")
    elif annotators["depth"].name == "sensor":
        lines.append("A simulated depth sensor is ground truth plus a little noise: a real one is worse.")
    lines += ["", *depth_table(means), "", *track_table(means, annotators["keypoints"].name), ""]
    return "\n".join(lines)


def depth_table(means: Scores) -> list[str]:
    lines = [f"Depth is known at {means['depth_known']:.1%} of the pixels."]
    if "abs_rel_aligned" not in means:
        return lines
    lines += ["", "| depth | AbsRel | δ1 |", "|---|---|---|"]
    if "abs_rel" in means:
        lines.append(f"| as it is | {means['abs_rel']:.4f} | {means['delta1']:.2%} |")
    lines.append(f"| one scale and shift a clip | {means['abs_rel_aligned']:.4f} | {means['delta1_aligned']:.2%} |")
    return lines


def track_table(means: Scores, annotator: str) -> list[str]:
    lines = [f"{means['points_visible']:.1%} of the points are held to be visible."]
    if "average_jaccard" not in means:
        return lines
    lines += ["", "| keypoints | average Jaccard | position accuracy | occlusion accuracy |", "|---|---|---|---|"]
    names = ("average_jaccard", "position_accuracy", "occlusion_accuracy")
    for label, suffix in (
        (f"{annotator}, all points", ""),
        ("if nothing moved, all points", "_if_still"),
        (f"{annotator}, moving points", "_moving"),
        ("if nothing moved, moving points", "_moving_if_still"),
    ):
        values = [means.get(f"{name}{suffix}") for name in names]
        if None not in values:
            lines.append(f"| {label} | " + " | ".join(f"{100 * v:.1f}" for v in values if v is not None) + " |")
    moving = f"{MOVING_PX:g} px of {metrics.TAPVID_SIDE}"
    lines += ["", f"Moving: a true path over {moving}; {means['moving_points']:.1%} of the points."]
    if "active_truly_moving" in means:
        found, share = means["active_points"], means["active_truly_moving"]
        lines.append(f"Of {found:.0f} tracks a clip that training would take as active, {share:.0%} truly move.")
    return lines


def draw_clip(
    clip: LabelledClip, truth: TrueLabels | None, scores: Scores, annotators: Mapping[str, Annotator]
) -> UInt8[np.ndarray, "h w 3"]:
    """Camera, depth and tracks, each with its truth below it where there is one."""
    shown = spread(len(clip.rgb), FRAMES_SHOWN)
    depth = colour_depth(clip.inverse_depth[shown], clip.valid[shown], clip.inverse_depth_range)
    rows: list[Row] = [("camera", clip.rgb[shown]), (f"depth\n({annotators['depth'].name})", depth)]
    if truth is not None:
        inverse = 1 / np.maximum(truth.depth_m, 1e-3)
        limits = np.quantile(inverse[truth.depth_known], (0.02, 0.98)).astype(np.float32)
        same_units = annotators["depth"].units == "1/m"
        limits = clip.inverse_depth_range if same_units else limits
        rows.append(("true depth", colour_depth(inverse[shown], truth.depth_known[shown], limits)))
    tracks = draw_tracks(clip.rgb, clip.tracks, clip.visible)[shown]
    rows.append((f"keypoints\n({annotators['keypoints'].name})", tracks))
    if truth is not None:
        rows.append(("true tracks", draw_tracks(clip.rgb, truth.points.tracks, truth.points.visible)[shown]))
    columns = [f"frame {i}" for i in clip.frame_index[shown].tolist()]
    title = f"episode {clip.task}/{clip.episode}"
    return strip(rows, title=title, note=caption(scores), columns=columns, cell_px=192)


def caption(scores: Scores) -> str:
    texts: tuple[tuple[str, str, float, str], ...] = (
        ("abs_rel", "AbsRel", 1, ".3f"),
        ("abs_rel_aligned", "aligned", 1, ".3f"),
        ("average_jaccard", "AJ", 100, ".0f"),
        ("average_jaccard_moving", "moving", 100, ".0f"),
    )
    found = [f"{label} {scores[name] * factor:{style}}" for name, label, factor, style in texts if name in scores]
    return "   ".join(found) or "no ground truth"
