"""The page of tables and the pictures that show the labels' quality and scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from model import metrics
from stages.drawing.markdown import markdown_table
from stages.drawing.pictures import Row, colour_depth, spread
from stages.label_quality.contact_sheet import SheetClip, draw_thinned, label_rows
from stages.label_quality.labels import AnnotatorInfo
from stages.label_quality.measures import MEASURES, flag_names, flag_summary, quality_note
from stages.label_quality.truth_scores import (
    MOVING_PX,
    SELECTIONS,
    LabelledClip,
    Scores,
    TrueLabels,
)
from storage.stores.rows import Rows
from storage.stores.store import read_manifest

FRAMES_SHOWN = 3
FLAGGED_SHOWN = 20


def report(
    means: Scores, n_clips: int, n_true: int, annotators: Mapping[str, AnnotatorInfo], quality: Rows
) -> str:
    """Markdown: the annotators, the quality of all clips, the scores of some and of baselines."""
    lines = ["# Labels", ""]
    for role, a in annotators.items():
        lines.append(f"- {role}: **{a.name}**{a.caveat}")
    lines += ["", "## Quality", "", quality_table(quality), "", f"{flag_summary(quality)}.", ""]
    if flagged := flagged_table(quality):
        lines += [flagged, ""]
    lines += ["## Against ground truth", ""]
    lines.append(f"{n_clips} clips looked at; {n_true} have exact ground truth beside them.")
    if n_true == 0:
        lines.append("Without ground truth the accuracy of the labels is not known.")
    elif annotators["depth"].name == "sensor":
        lines.append(
            "A simulated depth sensor is ground truth plus little noise: a real one is worse."
        )
    for table in (depth_table(means), track_table(means, annotators["keypoints"].name)):
        lines += ["", table] if table else []
    return "\n".join([*lines, ""])


def quality_table(quality: Rows) -> str:
    """Each measure over all clips: median, worst value and its clip, limit, flagged clips."""
    rows = np.flatnonzero(quality.ok)
    limits, flags = read_manifest(quality.ref).parameters, quality.gather("flags", rows)
    lines: list[Sequence[object]] = []
    for bit, measure in enumerate(MEASURES):
        values = quality.gather(measure.name, rows)
        if np.isnan(values).all():
            lines.append((measure.name, "not measured", "", "", "", ""))
            continue
        worst = measure.worst(values)
        numbers = (np.nanmedian(values), values[worst], limits[measure.limit])
        median, value, limit = (measure.text.format(float(number)) for number in numbers)
        n_flagged = int((flags >> bit & 1).sum())
        clip = f"`{quality.clip_ids[int(rows[worst])]}`"
        lines.append((measure.name, median, value, clip, limit, n_flagged))
    return markdown_table(("measure", "median", "worst", "in clip", "limit", "flagged"), lines)


def flagged_table(quality: Rows) -> str:
    """The flagged clips, those with most flags first; empty if there are none."""
    rows = np.flatnonzero(quality.ok)
    flags = quality.gather("flags", rows)
    order = sorted(np.flatnonzero(flags), key=lambda i: -len(flag_names(int(flags[i]))))
    lines = [
        (row, f"`{quality.clip_ids[row]}`", ", ".join(flag_names(int(flags[i]))))
        for i, row in ((i, int(rows[i])) for i in order[:FLAGGED_SHOWN])
    ]
    return markdown_table(("row", "flagged clip", "because"), lines) if lines else ""


def depth_table(means: Scores) -> str:
    if "abs_rel_aligned" not in means:
        return ""
    ways = (("as it is", ""), ("one scale and shift a clip", "_aligned"))
    lines = [
        (label, f"{means['abs_rel' + suffix]:.4f}", f"{means['delta1' + suffix]:.2%}")
        for label, suffix in ways
        if "abs_rel" + suffix in means
    ]
    return markdown_table(("depth", "AbsRel", "δ1"), lines)


def track_table(means: Scores, annotator: str) -> str:
    """The scores of all and of moving points, and what counts as moving."""
    if "average_jaccard" not in means:
        return ""
    rows = []
    names = ("average_jaccard", "position_accuracy", "occlusion_accuracy")
    for label, suffix in (
        (f"{annotator}, all points", ""),
        ("if nothing moved, all points", "_if_still"),
        (f"{annotator}, moving points", "_moving"),
        ("if nothing moved, moving points", "_moving_if_still"),
    ):
        values = [means.get(f"{name}{suffix}") for name in names]
        if None not in values:
            rows.append((label, *(f"{100 * v:.1f}" for v in values if v is not None)))
    columns = ("keypoints", "average Jaccard", "position accuracy", "occlusion accuracy")
    lines = [markdown_table(columns, rows)]
    moving = f"{MOVING_PX:g} px of {metrics.TAPVID_SIDE}"
    shares = means["moving_points"], means["moving_in_world"]
    lines += [
        "",
        f"Moving: a true path in the picture over {moving}; {shares[0]:.1%} of the points",
    ]
    lines[-1] += f" ({shares[1]:.1%} move in the world)."
    if "active_points" in means:
        lines += ["", selection_table(means)]
    return "\n".join(lines)


def selection_table(means: Scores) -> str:
    """What training would select as active, and whether these tracks move by themselves."""
    ways = ("compensate_camera=false", "compensate_camera=true")
    names = ("active_truly_moving", "active_moving_in_world", "active_on_background")
    rows = []
    for way, suffix in zip(ways, SELECTIONS, strict=True):
        shares = (means.get(f"{name}{suffix}") for name in names)
        texts = ("" if share is None else f"{share:.0%}" for share in shares)
        rows.append((way, f"{means[f'active_points{suffix}']:.0f}", *texts))
    columns = (
        "training selects as active", "tracks a clip", "move in the picture",
        "move in the world", "on the still background",
    )  # fmt: skip
    return "\n".join(
        [
            markdown_table(columns, rows),
            "",
            "In the world: the same path, were the camera to stay where it is in the first frame. "
            "A moving camera moves the whole picture, so what stands still in the world moves too. "
            "Background: what never moves, such as table, tray, floor and wall.",
        ]
    )


def draw_clip(
    clip: LabelledClip,
    truth: TrueLabels | None,
    scores: Scores,
    quality: Mapping[str, np.ndarray],
    annotators: Mapping[str, AnnotatorInfo],
) -> SheetClip:
    """Camera, depth and tracks, each above its truth where there is one."""
    shown = spread(len(clip.rgb), FRAMES_SHOWN)
    camera, depth, tracks = label_rows(clip, annotators, shown)
    rows: list[Row] = [camera, depth, tracks]
    if truth is not None:
        inverse = 1 / np.maximum(truth.depth_m, 1e-3)
        limits = np.quantile(inverse[truth.depth_known], (0.02, 0.98)).astype(np.float32)
        limits = clip.inverse_depth_range if annotators["depth"].units == "1/m" else limits
        true_depth = colour_depth(inverse[shown], truth.depth_known[shown], limits)
        true_tracks = draw_thinned(clip.rgb, truth.points.tracks, truth.points.visible)[shown]
        rows = [camera, depth, ("true depth", true_depth), tracks, ("true tracks", true_tracks)]
    return SheetClip(
        title=f"episode {clip.task}/{clip.episode}",
        note=f"{quality_note(quality)}\n{score_caption(scores)}",
        rows=rows,
    )


def score_caption(scores: Scores) -> str:
    texts: tuple[tuple[str, str, float, str], ...] = (
        ("abs_rel", "AbsRel", 1, ".3f"),
        ("abs_rel_aligned", "aligned", 1, ".3f"),
        ("average_jaccard", "AJ", 100, ".0f"),
        ("average_jaccard_moving", "moving", 100, ".0f"),
    )
    found = [
        f"{label} {scores[name] * factor:{style}}"
        for name, label, factor, style in texts
        if name in scores
    ]
    return ", ".join(found) or "no ground truth"
