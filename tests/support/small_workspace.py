"""A workspace as a run leaves it, in small: clips, labels, a world model, its evaluation, the run's
journal.
"""

from pathlib import Path

import numpy as np
from small_stores import square_clips, write_clips
from small_world import REJECTED, SPLITS, World, make_world

from pipeline.orchestration.journal import start_journal
from storage.stores.records import StoreRef

UNTRACKED, FLAGGED = 5, 2  # a row that keypoints rejected, one with the flag `flicker`
FLICKER = 1


def make_workspace(root: Path) -> World:
    """`make_world` with keypoints, label quality, an evaluation and the journal of its run."""
    world = make_world(root)
    world.rows |= make_labels(world.rows["discover"], world.rows["clip"], world.rows["depth"])
    evaluation = world.evaluate()
    journal = start_journal(
        root / "runs",
        {
            "experiment": "demo",
            "overrides": {"clip_format.size": 32, "depth.annotator": "vda-tiny"},
        },
    )
    for ref in (*world.rows.values(), *world.results.values(), evaluation.ref):
        entry = journal.entry(ref.stage)
        entry.state, entry.uri = "completed", ref.uri
    journal.close("completed")
    return world


def make_labels(
    index: StoreRef, clip: StoreRef, depth: StoreRef, seed: int = 0
) -> dict[str, StoreRef]:
    """Keypoints, without row UNTRACKED, and label quality, with a flag on row FLAGGED."""
    tracks = square_clips(len(SPLITS), seed)["keypoints"]
    inputs = {"clip": clip.uri, "depth": depth.uri}
    keypoints = write_clips(
        index, "keypoints", tracks, rejected=(UNTRACKED,), upstream=(REJECTED,), inputs=inputs
    )
    flags = np.zeros(len(SPLITS), np.uint8)
    flags[FLAGGED] = FLICKER
    quality = {
        "flags": flags,
        "flicker": np.linspace(0, 0.03, len(SPLITS)).astype(np.float32) + seed,
    }
    inputs |= {"keypoints": keypoints.uri}
    label_quality = write_clips(
        index, "label_quality", quality, rejected=(UNTRACKED,), upstream=(REJECTED,), inputs=inputs
    )
    return {"keypoints": keypoints, "label_quality": label_quality}
