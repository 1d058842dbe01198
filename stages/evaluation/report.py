"""An evaluation's page."""

from collections.abc import Sequence

from model import metrics
from stages.evaluation.fvd import fvd_note
from stages.evaluation.measure_notes import delta_psnr_note, estimated_depth_note, motion_note
from stages.evaluation.numbers import CONTESTS, NUMBERS, report_numbers
from stages.evaluation.objects import AT_HOME_M, AWAY_M, OBJECT_REGIONS
from stages.evaluation.score_tables import object_table, steadiness_table, table
from stages.evaluation.scores import (
    CAMERA,
    FARTHEST_RATIO,
    PROTOCOLS,
    REFERENCES,
    ScoredClip,
    Scores,
)
from stages.evaluation.setting import Setting
from stages.evaluation.verdict_lines import actions_verdict, copy_verdict, objects_verdict


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
        "The moving region, the same against both references, is where the decoded true frames "
        f"differ from frame 0, slightly dilated; {n_moving} of {setting.n_clips} clips have one. "
        "The moving region of the camera is where the camera's frames differ from frame 0. It "
        "needs no tokenizer, so other models' videos are scored there, too.",
        "Linear motion by optical flow: the frame before, moved once more as it moved since the "
        "one before it. Frame 1 is a copy of frame 0. There is none free-running, where only "
        "frame 0 is known.",
        "The most detailed tenth: of the 16 x 16 squares of a frame, those in which the "
        "reference's colours vary most.",
        f"A frame that is exactly right has an infinite PSNR, counted as {metrics.MAX_PSNR:g} dB.",
        delta_psnr_note(setting.gaussian_draws, setting.held_actions, setting.mirrored_actions),
        "Flicker: mean change from frame to frame where the true video never moves. The copy of "
        "the frame before has the camera's own. Depth edges: where neighbours' true inverse depths "
        "differ by over a tenth of the clip's range. Their sharpness is the steepness of the "
        "brightness there over that of the camera's frames: below 1 is blurred, above 1 noisy.",
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
            "Predicted depth is 1 / the inverse depth of the depth branch, in the labels' units "
            f"({setting.depth_units or 'unknown'}), compared where the pseudo depth is valid. "
            "Aligned: after one scale and shift of inverse depth for each clip. Depth is clipped "
            f"at {FARTHEST_RATIO:g} times the clip's near end. The baseline copies the decoded "
            "first frame."
        )
    return lines
