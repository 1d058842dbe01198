"""Finds a world model's checkpoint by the names that a person has at hand."""

from pathlib import Path

from pipeline.lineage.graph import find
from stages.evaluation.checkpoint import Checkpoint
from stages.world_model.data import WORLD_MODEL_FILE
from storage.stores import store
from storage.stores.results import open_result


def find_checkpoint(what: str, root: str) -> Checkpoint:
    """The checkpoint at this path, or of the store that `find` knows by this name.

    What belongs to it is looked for beside its own store, and under `root` for a file elsewhere.
    Raises LookupError if there is none, ValueError if the file is no world model's.
    """
    if Path(what).is_file():
        try:
            own_root = find(what, root).root
        except LookupError:
            own_root = root
        return Checkpoint.read(Path(what), own_root)
    ref = find(what, root)
    if store.read_manifest(ref).kind != "result" or WORLD_MODEL_FILE not in open_result(ref).files:
        raise LookupError(
            f"{ref} holds no {WORLD_MODEL_FILE}: expected a version of the stage 'world_model', or "
            "the path of a checkpoint; `roboscape status` shows what there is"
        )
    return Checkpoint.read(open_result(ref).file(WORLD_MODEL_FILE), ref.root)
