"""Finds the exact ground truth of simulated episodes, `<root>/ground_truth`.

Who reads it: the scores of labels (`label_scores`), of tokens and of predicted objects; the
training of annotators; and the annotators named `truth`, for studies that separate the model from
its labels. What is made with these says so on every page; no other annotator may read it.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from simulation.ground_truth import GroundTruth, read_ground_truth
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


def truth_reader(root: Path) -> Callable[[ClipInputs], GroundTruth]:
    """A function that gives the truth of the clip's episode, from its arrays `task` and `episode`.

    It raises Rejected (`no_truth`) where there is none.
    """

    # Clips of one episode follow each other, and an episode's images are hundreds of MB
    @lru_cache(maxsize=1)
    def read(task: int, episode: int) -> GroundTruth:
        return read_ground_truth(root / "ground_truth" / str(task) / str(episode))

    def truth_of(clip: ClipInputs) -> GroundTruth:
        try:
            return read(int(clip.arrays["task"]), int(clip.arrays["episode"]))
        except FileNotFoundError as error:
            raise Rejected("no_truth", str(error)) from error

    return truth_of
