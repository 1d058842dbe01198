"""What the report says of ΔPSNR, estimated depth and motion: how each was, or can be, measured."""

from collections.abc import Sequence

from stages.evaluation.estimated_depth import FOUND
from stages.evaluation.gripper_path import REACH_PX
from stages.evaluation.scores import (
    ACTIVE,
    COPY,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    GRIPPER,
    MODEL,
    PSEUDO_TRACKS,
    TRACKED,
    Cell,
    Scores,
)

# Error of a tracker on true frames, as a share of that of points that stay put, above which its
# scores of a model say little
USEFUL_SHARE = 0.5
OURS, COPIED, ITSELF = (
    Cell(FREE, PSEUDO_TRACKS, ACTIVE, method, "track_error") for method in (MODEL, COPY, TRACKED)
)
DEPTH_FOUND = Cell(FREE, ESTIMATED_DEPTH, FRAME, MODEL, FOUND)
PATH = Cell(FREE, PSEUDO_TRACKS, GRIPPER, MODEL, "path_ndtw")


def delta_psnr_note(gaussian_draws: int, held_actions: bool, mirrored_actions: bool) -> str:
    """Also names the forms that were not measured."""
    note = (
        "ΔPSNR: PSNR with the true actions minus PSNR with other ones, from the same frame with "
        "the same noise; its forms are not comparable. Another clip's: a held-out one's (RoboScape)"
    )
    if gaussian_draws:
        note += (
            "; Gaussian: with the mean and deviation of the training set's actions, each number by "
            f"itself, mean PSNR of {gaussian_draws} draws (HMA takes 5)"
        )
    if held_actions:
        note += "; held: the pose at the clip's start in every frame"
    if mirrored_actions:
        note += "; mirrored: the hands' movements from the clip's start, turned round"
    fields = {
        "gaussian_draws=5": gaussian_draws,
        "held_actions=true": held_actions,
        "mirrored_actions=true": mirrored_actions,
    }
    missing = [f"`evaluation.{field}`" for field, is_on in fields.items() if not is_on]
    return f"{note}. Other forms: {', '.join(missing)}." if missing else f"{note}."


def estimated_depth_note(per_clip: Sequence[Scores], annotator: str) -> str:
    """annotator: that was run on the videos; empty if none was."""
    if not annotator:
        return (
            "Depth was not estimated from the predicted pictures: "
            "`evaluation.depth_annotator=vda-tiny` does so, also without a depth branch."
        )
    taken = [scores[DEPTH_FOUND] for scores in per_clip if DEPTH_FOUND in scores]
    return (
        f"Estimated depth: that of every video by {annotator}, against what the same annotator "
        "makes of the camera's frames, at the clip's own rate. It says whether the pictures look "
        "as far away as they should, and is no score of the depth branch. "
        f"{annotator} takes the camera's frames of {len(taken)} of {len(per_clip)} clips, and "
        f"rejects the free-running prediction of {taken.count(0)} of them. A clip with a rejected "
        "video is scored for no method of that protocol, so that all have the same clips. An "
        "annotator without units has aligned scores only."
    )


def motion_note(means: Scores, per_clip: Sequence[Scores], tracker: str) -> str:
    """tracker: of the videos; empty if there was none. Warns of one that is of no use."""
    if not tracker:
        return "Motion was not measured: `evaluation.tracker=lucas-kanade` tracks the videos."
    n_active, n_paths = (sum(cell in scores for scores in per_clip) for cell in (OURS, PATH))
    return (
        f"Motion: points of frame 0 are tracked through every video by {tracker}, at the clip's "
        "own rate, and compared with the true tracks where these are visible. The camera frames "
        "themselves show that tracker's own error. Active points: those that training would take, "
        f"the 64 that move most; {n_active} of {len(per_clip)} clips have some. Grippers: "
        "normalised dynamic time warping from the measured path, projected by the camera's "
        f"calibration, within {REACH_PX:g} px; in {n_paths} clips enough tracks go along with one."
        + tracker_warning(means, tracker)
    )


def tracker_warning(means: Scores, tracker: str) -> str:
    """A sentence where the tracker itself errs so much that its scores of a model say little."""
    itself, copied = means.get(ITSELF), means.get(COPIED)
    if itself is None or copied is None or itself <= USEFUL_SHARE * copied:
        return ""
    return (
        f" **{tracker} is of little use here**: on the camera frames themselves it is off by "
        f"{itself:.1f} px, points that stay put by {copied:.1f}."
    )
