"""Scores of clips -> means, tables that never mix protocols or references, and a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from model import metrics
from stages.drawing.markdown import markdown_table
from stages.evaluation.controls import FORM_NAMES, FORMS, GAUSSIAN, HELD, MIRRORED, OTHER_CLIP
from stages.evaluation.estimated_depth import DEPTH_METRICS, FOUND
from stages.evaluation.fvd import fvd_note
from stages.evaluation.measure_notes import delta_psnr_note, estimated_depth_note, motion_note
from stages.evaluation.objects import (
    AT_HOME_M,
    AWAY_M,
    OBJECT_REGIONS,
    OBJECTS,
    scores_at,
    times_judged,
)
from stages.evaluation.scores import (
    ACTIVE,
    CAMERA,
    CEILING,
    COPY,
    DECODED,
    DETAIL,
    EDGES,
    ESTIMATED_DEPTH,
    FARTHEST_RATIO,
    FRAME,
    FREE,
    GRIPPER,
    LINEAR,
    MODEL,
    MOVING,
    MOVING_CAMERA,
    PREVIOUS,
    PROTOCOLS,
    PSEUDO_DEPTH,
    PSEUDO_TRACKS,
    REFERENCES,
    STILL,
    TEACHER,
    TRACKED,
    TRUE_DEPTH,
    Cell,
    ScoredClip,
    Scores,
)

# metric -> heading with the direction of better (→ 1: nearer to 1), format
COLUMNS: dict[str, tuple[str, str]] = {
    "psnr": ("PSNR (dB) ↑", ".2f"),
    "psnr_chroma": ("PSNR of the chroma (dB) ↑", ".2f"),
    "delta_e": ("ΔE00 ↓", ".1f"),
    "named": ("colour named rightly ↑", ".0%"),
    "present_half": ("present half-way ↑", ".0%"),
    "present_end": ("present at the end ↑", ".0%"),
    "ssim": ("SSIM ↑", ".4f"),
    "lpips": ("LPIPS ↓", ".4f"),
    "fvd": ("FVD ↓", ".1f"),
    OTHER_CLIP: ("ΔPSNR, another clip's actions (dB) ↑", "+.2f"),
    GAUSSIAN: ("ΔPSNR, Gaussian actions (dB) ↑", "+.2f"),
    HELD: ("ΔPSNR, actions held (dB) ↑", "+.2f"),
    MIRRORED: ("ΔPSNR, mirrored movements (dB) ↑", "+.2f"),
    "flicker": ("flicker of what is still (levels of 255) ↓", ".2f"),
    "edge_sharpness": ("sharpness of depth edges → 1", ".2f"),
    "track_error": ("error of the tracks (px of 256) ↓", ".2f"),
    "track_within": ("tracks within 4 px ↑", ".0%"),
    "path_ndtw": ("path, nDTW ↑", ".3f"),
    FOUND: ("clips with a depth ↑", ".0%"),
    "abs_rel": ("AbsRel ↓", ".4f"),
    "delta1": ("δ1 ↑", ".4f"),
    "delta2": ("δ2 ↑", ".4f"),
    "abs_rel_aligned": ("AbsRel, aligned ↓", ".4f"),
    "delta1_aligned": ("δ1, aligned ↑", ".4f"),
    "delta2_aligned": ("δ2, aligned ↑", ".4f"),
}
# ΔPSNR below which control is weak: Genie, which RoboScape calls so, has 1.99 (arXiv:2506.23135)
WEAK_CONTROL_DB = 2.0
METHODS = (MODEL, COPY, PREVIOUS, LINEAR, CEILING, TRACKED)
REGIONS = (FRAME, MOVING, MOVING_CAMERA, DETAIL, STILL, EDGES, ACTIVE, GRIPPER, *OBJECT_REGIONS)

STEADINESS_REGIONS = (STILL, EDGES)
OWN_TABLES = (*STEADINESS_REGIONS, *OBJECT_REGIONS)  # regions that are not in the main ones


def free(region: str, method: str, metric: str, reference: str = DECODED) -> Cell:
    return Cell(FREE, reference, region, method, metric)


# Name of each number of the result -> its place in the tables
NUMBERS: dict[str, Cell] = {
    "psnr_free": free(FRAME, MODEL, "psnr"),
    "psnr_copy": free(FRAME, COPY, "psnr"),
    "ssim_free": free(FRAME, MODEL, "ssim"),
    "ssim_copy": free(FRAME, COPY, "ssim"),
    "lpips_free": free(FRAME, MODEL, "lpips"),
    "lpips_copy": free(FRAME, COPY, "lpips"),
    "fvd_free": free(FRAME, MODEL, "fvd", CAMERA),
    "fvd_copy": free(FRAME, COPY, "fvd", CAMERA),
    "fvd_tokenizer": free(FRAME, CEILING, "fvd", CAMERA),
    "psnr_free_moving": free(MOVING, MODEL, "psnr"),
    "psnr_copy_moving": free(MOVING, COPY, "psnr"),
    "psnr_teacher": Cell(TEACHER, DECODED, FRAME, MODEL, "psnr"),
    "ssim_teacher": Cell(TEACHER, DECODED, FRAME, MODEL, "ssim"),
    **{form: free(FRAME, MODEL, form) for form in FORMS},
    **{f"{form}_moving": free(MOVING, MODEL, form) for form in FORMS},
    "psnr_free_camera": free(FRAME, MODEL, "psnr", CAMERA),
    "psnr_copy_camera": free(FRAME, COPY, "psnr", CAMERA),
    "ssim_free_camera": free(FRAME, MODEL, "ssim", CAMERA),
    "ssim_copy_camera": free(FRAME, COPY, "ssim", CAMERA),
    "psnr_free_camera_moving": free(MOVING, MODEL, "psnr", CAMERA),
    "psnr_copy_camera_moving": free(MOVING, COPY, "psnr", CAMERA),
    "tokenizer_psnr": free(FRAME, CEILING, "psnr", CAMERA),
    "tokenizer_ssim": free(FRAME, CEILING, "ssim", CAMERA),
    "flicker_free": free(STILL, MODEL, "flicker", CAMERA),
    "flicker_tokenizer": free(STILL, CEILING, "flicker", CAMERA),
    "edge_sharpness_free": free(EDGES, MODEL, "edge_sharpness", CAMERA),
    "edge_sharpness_tokenizer": free(EDGES, CEILING, "edge_sharpness", CAMERA),
    "track_error_free": free(ACTIVE, MODEL, "track_error", PSEUDO_TRACKS),
    "track_error_copy": free(ACTIVE, COPY, "track_error", PSEUDO_TRACKS),
    "track_error_itself": free(ACTIVE, TRACKED, "track_error", PSEUDO_TRACKS),
    "track_within_free": free(ACTIVE, MODEL, "track_within", PSEUDO_TRACKS),
    "track_within_copy": free(ACTIVE, COPY, "track_within", PSEUDO_TRACKS),
    "path_ndtw_free": free(GRIPPER, MODEL, "path_ndtw", PSEUDO_TRACKS),
    "path_ndtw_copy": free(GRIPPER, COPY, "path_ndtw", PSEUDO_TRACKS),
    "psnr_free_objects": free(OBJECTS, MODEL, "psnr", CAMERA),
    "psnr_copy_objects": free(OBJECTS, COPY, "psnr", CAMERA),
    "tokenizer_psnr_objects": free(OBJECTS, CEILING, "psnr", CAMERA),
    "named_free": free(OBJECTS, MODEL, "named", CAMERA),
    "named_tokenizer": free(OBJECTS, CEILING, "named", CAMERA),
    **{name: free(FRAME, MODEL, name, PSEUDO_DEPTH) for name in DEPTH_METRICS},
    **{f"{name}_true": free(FRAME, MODEL, name, TRUE_DEPTH) for name in DEPTH_METRICS},
    **{f"{name}_estimated": free(FRAME, MODEL, name, ESTIMATED_DEPTH) for name in DEPTH_METRICS},
    **{
        f"{metric}_estimated_{name}": free(FRAME, method, metric, ESTIMATED_DEPTH)
        for metric in ("abs_rel", "abs_rel_aligned")
        for name, method in (("copy", COPY), ("tokenizer", CEILING))
    },
    "depth_found_estimated": free(FRAME, MODEL, FOUND, ESTIMATED_DEPTH),
    "abs_rel_copy": free(FRAME, COPY, "abs_rel", PSEUDO_DEPTH),
    "abs_rel_tokenizer": free(FRAME, CEILING, "abs_rel", PSEUDO_DEPTH),
}


@dataclass(frozen=True)
class Contest:
    """The model against the copy of frame 0; larger is better."""

    flag: str
    ours: str  # in NUMBERS
    copied: str
    label: str
    text: str  # format of the values


CAMERA_CONTESTS = (
    Contest("beats_copy_camera_psnr", "psnr_free_camera", "psnr_copy_camera", "PSNR", ".2f"),
    Contest("beats_copy_camera_ssim", "ssim_free_camera", "ssim_copy_camera", "SSIM", ".4f"),
    Contest(
        "beats_copy_camera_moving",
        "psnr_free_camera_moving",
        "psnr_copy_camera_moving",
        "PSNR of the moving region",
        ".2f",
    ),
    Contest(
        "beats_copy_objects",
        "psnr_free_objects",
        "psnr_copy_objects",
        "PSNR inside objects",
        ".2f",
    ),
)
DECODED_CONTESTS = (
    Contest("beats_copy_psnr", "psnr_free", "psnr_copy", "PSNR", ".2f"),
    Contest("beats_copy_ssim", "ssim_free", "ssim_copy", "SSIM", ".4f"),
    Contest(
        "beats_copy_moving",
        "psnr_free_moving",
        "psnr_copy_moving",
        "PSNR of the moving region",
        ".2f",
    ),
)
# Camera frames first: decoded ones lack what the tokenizer lost, so a model may look well there
CONTESTS = {CAMERA: CAMERA_CONTESTS, DECODED: DECODED_CONTESTS}


@runtime_checkable
class TableSetting(Protocol):
    """What a table says of how its numbers were measured."""

    @property
    def has_lpips(self) -> bool: ...

    @property
    def has_fvd(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was evaluated and how, for the notes below the tables."""

    split: str
    n_clips: int
    n_usable: int
    rate_hz: float
    n_frames: int
    has_lpips: bool
    has_fvd: bool
    has_depth: bool
    depth_annotator: str  # name, and what it stands in for
    depth_units: str
    depth_estimator: str  # annotator that is run on predicted videos; empty if none is
    tracks_annotator: str  # likewise, of the true tracks; empty if they are not read
    tracker: str  # of predicted videos
    sampling: str
    seed: int
    gaussian_draws: int  # of actions, for each clip
    held_actions: bool
    mirrored_actions: bool
    flagged: str  # flags of the evaluated clips, with counts
    dropped: str  # flags for which clips were left out


def gain(metric: str, value: float) -> float:
    """The value so that larger is better: negative if less is, or minus its distance from 1."""
    heading, _ = COLUMNS[metric]
    if "→ 1" in heading:
        return -abs(value - 1)
    return value if "↑" in heading else -value


def mean_scores(per_clip: Sequence[Scores]) -> Scores:
    """Means over the clips in which each number was measured."""
    cells = dict.fromkeys(cell for scores in per_clip for cell in scores)
    means = {
        cell: float(np.mean([scores[cell] for scores in per_clip if cell in scores]))
        for cell in cells
    }
    return in_order(means)


def in_order(scores: Scores) -> Scores:
    """As the tables have them."""
    return {cell: scores[cell] for cell in sorted(scores, key=table_order)}


def table_order(cell: Cell) -> tuple[int, ...]:
    """Methods of other names than ours, such as another model's, stand first."""
    method = METHODS.index(cell.method) if cell.method in METHODS else -1
    orders, names = (PROTOCOLS, REFERENCES, REGIONS), (cell.protocol, cell.reference, cell.region)
    places = [order.index(name) for order, name in zip(orders, names, strict=True)]
    return (*places, method, tuple(COLUMNS).index(cell.metric))


def report_numbers(means: Scores, n_clips: int) -> dict[str, float]:
    numbers = {name: means[cell] for name, cell in NUMBERS.items() if cell in means}
    for contest in (*CAMERA_CONTESTS, *DECODED_CONTESTS):
        if contest.ours in numbers and contest.copied in numbers:
            numbers[contest.flag] = float(numbers[contest.ours] > numbers[contest.copied])
    return {"clips": float(n_clips), **numbers}


def metrics_page(means: Scores, clips: Sequence[ScoredClip], setting: Setting) -> str:
    numbers, per_clip = report_numbers(means, setting.n_clips), [clip.scores for clip in clips]
    sections = ["# Evaluation"]
    sections += [copy_verdict(reference, numbers, per_clip, setting) for reference in CONTESTS]
    sections += [objects_verdict(clips, setting), actions_verdict(numbers)]
    for protocol in PROTOCOLS:
        for reference in REFERENCES:
            sections += table(means, protocol, reference, setting)
            if reference == CAMERA:
                sections += steadiness_table(means, protocol, setting)
                sections += object_table(means, protocol, setting)
    sections.append("\n".join(f"- {line}" for line in notes(means, per_clip, setting)))
    return "\n\n".join(sections) + "\n"


def copy_verdict(
    reference: str, numbers: Mapping[str, float], per_clip: Sequence[Scores], setting: Setting
) -> str:
    """Whether the model beats the copy of its first frame, by each metric that was measured."""
    won: list[str] = []
    lost: list[str] = []
    for contest in CONTESTS[reference]:
        if contest.flag not in numbers:
            continue
        share = better_in(per_clip, NUMBERS[contest.ours], NUMBERS[contest.copied])
        ours, copied = (numbers[name] for name in (contest.ours, contest.copied))
        values = f"{ours:{contest.text}} against {copied:{contest.text}}"
        text = f"{contest.label} ({values}, better in {share})"
        (won if numbers[contest.flag] else lost).append(text)
    start = (
        f"Free-running from one frame, on {setting.n_clips} held-out clips and against the "
        f"{reference}, the world model "
    )
    return won_and_lost(start, won, lost)


def won_and_lost(start: str, won: Sequence[str], lost: Sequence[str]) -> str:
    """Whether something beats copying the first frame. start: of the sentence, with its subject."""
    if not lost:
        return start + f"**beats copying that frame** in {listed(won)}."
    if not won:
        return start + f"**does not beat copying that frame** in {listed(lost, 'or')}."
    start += f"**beats copying that frame** in {listed(won)}, "
    return start + f"but **not** in {listed(lost, 'or')}."


def objects_verdict(clips: Sequence[ScoredClip], setting: Setting) -> str:
    """How many of the objects are there in the prediction, when there is exact truth."""
    watched, lines = [clip.watched for clip in clips], list[str]()
    for frame in times_judged(setting.n_frames).values():
        ours, copied = (scores_at(watched, FREE, m, frame) for m in (MODEL, COPY))
        if ours:
            parts = [
                f"{found.present:.0%} of {found.n} {region} (copying: {copied[region].present:.0%})"
                for region, found in ours.items()
            ]
            lines.append(f"after {frame / setting.rate_hz:g} s {listed(parts)}")
    if not lines:
        return "No masks of objects, or no large ones: whether objects last was not measured."
    return (
        "**Permanence**, objects of all clips together that are there in the prediction, by colour "
        "and place: " + "; ".join(lines) + "."
    )


def actions_verdict(numbers: Mapping[str, float]) -> str:
    """What the model loses under other actions, in each form that was measured."""
    measured = [form for form in FORMS if form in numbers]
    if not measured:
        return "How much the actions matter (ΔPSNR) was not measured: it takes two held-out clips."
    lines = ["**Control**, the PSNR that it loses under other actions (ΔPSNR):"]
    for form in measured:
        change, moving = numbers[form], numbers.get(f"{form}_moving")
        there = f" ({moving:+.2f} dB in the moving region)" if moving is not None else ""
        lines.append(f"- under {FORM_NAMES[form]} {change:+.2f} dB{there}: {control(change)}")
    return "\n".join(lines)


def control(change: float) -> str:
    """What a ΔPSNR says, in dB."""
    if change <= 0:
        return "these actions do **not** steer it."
    if change < WEAK_CONTROL_DB:
        return f"**weak control**, under {WEAK_CONTROL_DB:.1f} dB."
    return "the actions steer it."


def better_in(per_clip: Sequence[Scores], ours: Cell, copied: Cell) -> str:
    measured = [scores for scores in per_clip if ours in scores and copied in scores]
    return f"{sum(scores[ours] > scores[copied] for scores in measured)} of {len(measured)} clips"


def listed(texts: Sequence[str], last: str = "and") -> str:
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + f" {last} {texts[-1]}"


def table(means: Scores, protocol: str, reference: str, setting: Setting) -> list[str]:
    """A heading and a table: one protocol, one reference. Empty where nothing was measured."""
    here = {
        cell: value
        for cell, value in means.items()
        if cell[:2] == (protocol, reference) and cell.region not in OWN_TABLES
    }
    found = {cell.metric for cell in here}
    if reference in (CAMERA, DECODED):
        found.add("lpips")  # the column shows that weights are missing
    if reference == CAMERA:
        found.add("fvd")
    heading = f"## {protocol.capitalize()}, against {in_words(reference, setting)}"
    return rows_of(here, found, heading, protocol, reference, setting)


def steadiness_table(means: Scores, protocol: str, setting: Setting) -> list[str]:
    """The same of flicker and edges: a row for each method."""
    here = {
        cell._replace(region=FRAME): value
        for cell, value in means.items()
        if cell.protocol == protocol and cell.region in STEADINESS_REGIONS
    }
    heading = f"## {protocol.capitalize()}, flicker and edges, against the {CAMERA}"
    return rows_of(here, {cell.metric for cell in here}, heading, protocol, CAMERA, setting)


def object_table(means: Scores, protocol: str, setting: TableSetting) -> list[str]:
    """The same of objects, against the camera's frames."""
    here = {
        cell: value
        for cell, value in means.items()
        if cell.protocol == protocol and cell.region in OBJECT_REGIONS
    }
    heading = f"## {protocol.capitalize()}, objects, against the {CAMERA}"
    return rows_of(here, {cell.metric for cell in here}, heading, protocol, CAMERA, setting)


def rows_of(
    here: Scores,
    found: set[str],
    heading: str,
    protocol: str,
    reference: str,
    setting: TableSetting,
) -> list[str]:
    """The heading and a row for each region and method; empty without cells."""
    if not here:
        return []
    columns = [name for name in COLUMNS if name in found]
    rows = dict.fromkeys((cell.region, cell.method) for cell in sorted(here, key=table_order))
    lines = []
    for region, method in rows:
        label = f"{method}, {region}" if len({r for r, _ in rows}) > 1 else method
        values = [here.get(Cell(protocol, reference, region, method, name)) for name in columns]
        texts = [shown(name, value, setting) for name, value in zip(columns, values, strict=True)]
        lines.append((label, *texts))
    return [heading, markdown_table(("", *(COLUMNS[name][0] for name in columns)), lines)]


def shown(metric: str, value: float | None, setting: TableSetting) -> str:
    if value is not None:
        return f"{value:{COLUMNS[metric][1]}}"
    has_weights = {"lpips": setting.has_lpips, "fvd": setting.has_fvd}
    return "–" if has_weights.get(metric, True) else "no weights"


def in_words(reference: str, setting: Setting) -> str:
    annotators = {
        PSEUDO_DEPTH: setting.depth_annotator,
        ESTIMATED_DEPTH: f"of the {CAMERA}, by {setting.depth_estimator}",
        TRUE_DEPTH: "of the simulation, exact",
        PSEUDO_TRACKS: setting.tracks_annotator,
    }
    by = f" ({annotators[reference]})" if reference in annotators else ""
    return f"the {reference}{by}"


def notes(means: Scores, per_clip: Sequence[Scores], setting: Setting) -> list[str]:
    """What the numbers mean, and what was not measured."""
    n_moving = sum(NUMBERS["psnr_free_moving"] in scores for scores in per_clip)
    lines = [
        f"{setting.n_clips} clips, spread evenly over the {setting.n_usable} usable ones of split "
        f"'{setting.split}'; values are means over clips. Sampling: {setting.sampling}, seed "
        f"{setting.seed}.",
        f"Flags of the evaluated clips: {setting.flagged}. Left out for flags: {setting.dropped}.",
        "Free-running: all frames from frame 0. Teacher-forced: each frame from the true frames "
        "before it. Frame 0 is given and never scored.",
        "The moving region, the same against both references, is where decoded true frames differ "
        f"from frame 0, slightly dilated; {n_moving} of {setting.n_clips} clips have one. That of "
        "the camera is where its own frames do, which no tokenizer decides: videos of other models "
        "are scored there.",
        "Linear motion by optical flow: each frame as the flow between the two true frames before "
        "it lets expect it; frame 1 is a copy of frame 0. Free-running it knows no motion.",
        "The most detailed tenth: the squares, of 16 x 16 in a frame, within which the reference's "
        "colours vary most.",
        f"A frame that is exactly right has an infinite PSNR, counted as {metrics.MAX_PSNR:g} dB.",
        delta_psnr_note(setting.gaussian_draws, setting.held_actions, setting.mirrored_actions),
        "Flicker: mean change from one frame to the next of the pixels in which the true video "
        "never moves. The copy of the frame before has the camera's own. Depth edges: where the "
        "true inverse depth of neighbours differs by over a tenth of the clip's range; the "
        "steepness of the brightness there is compared with that of the camera's frames: below 1 "
        "is blurred, above 1 noisy.",
    ]
    if any(cell.region in OBJECT_REGIONS for cell in means):
        lines.append(
            "Objects: those of at least 40 px of 128 x 128, by exact masks. Moved: by over "
            f"{100 * AWAY_M:g} cm since frame 0; at rest: by under {100 * AT_HOME_M:g} cm. Named "
            "rightly: the mean colour at the true place is nearest to the object's own, of all "
            "objects in the frame. Present: near its true place, its surroundings among the "
            "choices; `tables/objects.csv` has every sighting."
        )
    lines += [
        estimated_depth_note(per_clip, setting.depth_estimator),
        motion_note(means, per_clip, setting.tracker),
    ]
    if not setting.has_lpips:
        lines.append("LPIPS: no weights were given (`evaluation.lpips`), so it was not measured.")
    lines.append(fvd_note(setting.has_fvd, setting.n_clips))
    if not setting.has_depth:
        return [*lines, "The world model has no depth branch: there are no depth scores."]
    if NUMBERS["abs_rel"] in means:
        lines.append(
            "Predicted depth, against the pseudo depth, is 1 / the depth branch's inverse depth, "
            "in the units that the clip's stored "
            f"range gives ({setting.depth_units or 'unknown'}), where the pseudo depth is valid; "
            "aligned: after one scale and shift of inverse depth a clip. Depth beyond "
            f"{FARTHEST_RATIO:g} times the clip's near end is clipped to that. The baseline copies "
            "the decoded first frame."
        )
    return lines
