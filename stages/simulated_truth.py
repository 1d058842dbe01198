"""Finds the exact ground truth of simulated episodes, `<root>/ground_truth`.

Who reads it: the scores of labels (`label_scores`), of tokens and of predicted objects; the
training of annotators; and the annotators named `truth`, for studies that separate the model from
its labels. What is made with these says so on every page; no other annotator may read it.
"""

import json
from pathlib import Path

from simulation.ground_truth import GroundTruth, truth_beside
from stages.base import ClipInputs, Rejected


def sample_digest(root: Path) -> str:
    """Says which simulated data set this is. Raises FileNotFoundError for any other data set."""
    recipe = root / "sample.json"
    if not recipe.is_file():
        raise FileNotFoundError(
            f"{root}: no sample.json, so these are not simulated episodes, and only those have "
            "exact labels; `roboscape sample` makes some"
        )
    if not (root / "ground_truth").is_dir():
        raise FileNotFoundError(
            f"{root}: simulated episodes without exact labels; make a sample with "
            "ground_truth=True, as `roboscape sample` does"
        )
    return json.loads(recipe.read_text())["digest"]


def clip_truth(root: Path, clip: ClipInputs) -> GroundTruth:
    """The truth of the clip's episode, from its arrays `task` and `episode`.

    Raises Rejected (`no_truth`) where there is none.
    """
    task, episode = int(clip.arrays["task"]), int(clip.arrays["episode"])
    truth = truth_beside(root, task, episode)
    if truth is None:
        where = root / "ground_truth" / str(task) / str(episode)
        raise Rejected("no_truth", f"no exact ground truth in {where}")
    return truth
