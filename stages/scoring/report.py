"""Scores of videos -> the page and its numbers."""

from collections.abc import Sequence

from model import metrics
from stages.drawing.markdown import plain
from stages.evaluation.columns import mean_scores
from stages.evaluation.fvd import fvd_note
from stages.evaluation.objects import AT_HOME_M, AWAY_M, OBJECT_REGIONS, OBJECTS
from stages.evaluation.score_tables import object_table, rows_of
from stages.evaluation.scores import (
    CAMERA,
    COPY,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    MOVING_CAMERA,
    Cell,
    Scores,
)
from stages.evaluation.verdict_lines import better_in, won_and_lost
from stages.scoring.scores import ScoredClip, ScoredVideo
from stages.scoring.setting import ScoreSetting
from stages.scoring.videos import some

NAMED = 20  # items that the page names of each kind
NOT_GIVEN_DB = 20.0  # a first frame with a lower PSNR is hardly the given one, coded again
# Name of each number -> its region and metric. The evaluation's name means the same there;
# `..._moving_of_camera` it has not: its `..._camera_moving` is where decoded tokens differ
NUMBERS = {
    "fvd_free": (FRAME, "fvd"),
    "psnr_free_camera": (FRAME, "psnr"),
    "ssim_free_camera": (FRAME, "ssim"),
    "lpips_free_camera": (FRAME, "lpips"),
    "psnr_free_moving_of_camera": (MOVING_CAMERA, "psnr"),
    "psnr_free_objects": (OBJECTS, "psnr"),
    "named_free": (OBJECTS, "named"),
}
# Region, metric, label, format: what decides whether a model beats the copy of frame 0
CONTESTS = (
    (FRAME, "psnr", "PSNR", ".2f"),
    (FRAME, "ssim", "SSIM", ".4f"),
    (MOVING_CAMERA, "psnr", "PSNR of the moving region", ".2f"),
    (OBJECTS, "psnr", "PSNR inside objects", ".2f"),
)


def metrics_page(means: Scores, clips: Sequence[ScoredClip], setting: ScoreSetting) -> str:
    sections = [f"# Scores of {plain(setting.method)}"]
    sections += [verdict(method, means, clips) for method in setting.clips_of_method]
    sections += left_out(setting)
    sections += frame_table(means, setting)
    sections += object_table(means, FREE, setting)
    sections += depth_table(means, setting)
    sections.append("\n".join(f"- {line}" for line in notes(means, clips, setting)))
    return "\n\n".join(sections) + "\n"


def frame_table(means: Scores, setting: ScoreSetting) -> list[str]:
    """A heading and a table of everything but the objects."""
    here = {
        cell: value
        for cell, value in means.items()
        if cell.reference == CAMERA and cell.region not in OBJECT_REGIONS
    }
    # The columns show that weights are missing
    found = {cell.metric for cell in here} | {"lpips", "fvd"}
    heading = f"## {FREE.capitalize()}, against the {CAMERA}"
    return rows_of(here, found, heading, FREE, CAMERA, setting)


def depth_table(means: Scores, setting: ScoreSetting) -> list[str]:
    """The same of the depth that the videos seem to have; empty where none was estimated."""
    here = {cell: value for cell, value in means.items() if cell.reference == ESTIMATED_DEPTH}
    by = f"of the {CAMERA}, by {setting.depth_estimator}"
    heading = f"## {FREE.capitalize()}, against the {ESTIMATED_DEPTH} ({by})"
    metrics = {cell.metric for cell in here}
    return rows_of(here, metrics, heading, FREE, ESTIMATED_DEPTH, setting)


def verdict(method: str, means: Scores, clips: Sequence[ScoredClip]) -> str:
    """Whether the method beats the copy of the first frame, on its own clips."""
    per_clip = [s for clip in clips if (s := clip.scores).keys() & {psnr_of(method)}]
    own = mean_scores(per_clip)
    won, lost = list[str](), list[str]()
    for region, metric, label, text in CONTESTS:
        ours, copied = (Cell(FREE, CAMERA, region, m, metric) for m in (method, COPY))
        if ours not in own or copied not in own:
            continue
        values = f"{own[ours]:{text}} against {own[copied]:{text}}"
        share = better_in(per_clip, ours, copied)
        (won if own[ours] > own[copied] else lost).append(f"{label} ({values}, better in {share})")
    start = f"From one frame, on {len(per_clip)} clips and against the {CAMERA}, {plain(method)} "
    return won_and_lost(start, won, lost)


def psnr_of(method: str) -> Cell:
    return Cell(FREE, CAMERA, FRAME, method, "psnr")


def report_numbers(
    means: Scores, clips: Sequence[ScoredClip], setting: ScoreSetting
) -> dict[str, float]:
    """Of several variants, each one's numbers have its name behind them."""
    numbers = {"clips": float(len(clips)), "videos": float(setting.n_videos)}
    counts = {"no_video": setting.no_video, "no_clip": setting.no_clip, "bad": setting.bad}
    numbers |= {name: float(len(items)) for name, items in counts.items()}
    for method in (*setting.clips_of_method, COPY):
        suffix = method.removeprefix(setting.method).removeprefix(", ") if method != COPY else ""
        for name, (region, metric) in NUMBERS.items():
            cell = Cell(FREE, CAMERA, region, method, metric)
            shown = name.replace("_free", "_copy") if method == COPY else name
            if cell in means:
                numbers[f"{shown} {suffix}".strip()] = means[cell]
    return numbers


def left_out(setting: ScoreSetting) -> list[str]:
    """What was given and not scored, or wanted and not given, by name; nothing if all is there."""
    splits = " and ".join(f"'{name}'" for name in setting.splits)
    wanted = f"of the {setting.n_clips_of_splits} clips of split {splits}"
    found = {
        "videos that cannot be used": setting.bad,
        f"videos of no clip of {setting.store}": setting.no_clip,
        f"{wanted} without a video": setting.no_video,
    }
    lines = [f"- {len(items)} {what}: {named(items)}" for what, items in found.items() if items]
    return ["\n".join(("Left out:", "", *lines))] if lines else []


def named(items: Sequence[str]) -> str:
    """The first of them, as one line."""
    shown = [plain(" ".join(item.split())) for item in items[:NAMED]]
    more = f"; and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return "; ".join(shown) + more


def notes(means: Scores, clips: Sequence[ScoredClip], setting: ScoreSetting) -> list[str]:
    """What the numbers mean, and how the videos were brought to the clips' form."""
    videos = [video for clip in clips for video in clip.videos]
    counts = ", ".join(f"{plain(name)} {n}" for name, n in setting.clips_of_method.items())
    kinds = "; ".join(f"{n} of {kind}" for kind, n in setting.kinds.items())
    moving = sum(Cell(FREE, CAMERA, MOVING_CAMERA, COPY, "psnr") in c.scores for c in clips)
    rate = f" The rate of {setting.rate_given:g} Hz was given." if setting.rate_given else ""
    lines = [
        f"{len(videos)} videos of {len(clips)} clips ({counts}), from {plain(setting.place)}; "
        "values are means over clips, and a clip's are means over its seeds.",
        f"Videos: {kinds}. Clips: {setting.times}, {setting.size}.{rate} At each of a clip's times "
        "the nearest frame is taken; larger frames are shrunk by the mean of areas.",
        "Free-running: what a model was given beside frame 0 is not known here. " + first(videos),
        "The moving region of the camera is where its frames differ from frame 0, slightly "
        f"dilated; {moving} of {len(clips)} clips have one. (The evaluation's other moving region "
        "is where decoded tokens differ.)",
        "The most detailed tenth: the squares, of 16 x 16 in a frame, within which the true "
        "colours vary most.",
        f"A frame that is exactly right has an infinite PSNR, counted as {metrics.MAX_PSNR:g} dB.",
    ]
    if any(cell.region in OBJECT_REGIONS for cell in means):
        lines.append(
            f"Objects, by exact masks. Moved: by over {100 * AWAY_M:g} cm since frame 0; at rest: "
            f"by under {100 * AT_HOME_M:g} cm. `tables/objects.csv` has every sighting. They were "
            f"looked for in {sum(bool(clip.watched) for clip in clips)} of {len(clips)} clips."
        )
    else:
        lines.append(
            "Objects were not measured: "
            + (
                "the clips' episodes have no exact masks, which simulated ones have, or no object "
                "is large enough."
                if setting.has_episodes
                else "the folder of the clips' episodes was not found."
            )
        )
    if not setting.has_lpips:
        lines.append("LPIPS was not measured: its weights are not there (docs/weights.md).")
    lines.append(fvd_note(setting.has_fvd, len(clips)))
    if setting.depth_estimator:
        lines.append(
            f"Estimated depth: that of every video by {setting.depth_estimator}, against what the "
            "same annotator makes of the camera's frames. A clip with a video in which it finds "
            "none is scored for none of them."
        )
    else:
        lines.append("Depth was not estimated: `--depth-annotator vda-tiny` does so.")
    return lines


def first(videos: Sequence[ScoredVideo]) -> str:
    """Whether the videos begin with the given frame."""
    low = [v for v in videos if v.first_psnr < NOT_GIVEN_DB]
    mean = sum(v.first_psnr for v in videos) / len(videos)
    text = f"Frame 0 is given and never scored; the videos' own is {mean:.1f} dB from it."
    if low:
        names = some([str(v.video) for v in low], 5)
        text += (
            f" **In {len(low)} videos it has less than {NOT_GIVEN_DB:g} dB** ({plain(names)}): a "
            "video must begin with the given frame, or all its frames are compared at wrong times."
        )
    return text
