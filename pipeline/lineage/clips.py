"""Finds a store of clips by the names that a person has at hand."""

from pathlib import Path

from pipeline.lineage.graph import ancestry, find
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.rows import ClipRows, open_rows

CLIP = "clip"  # the stage


def find_clips(what: str, root: str, run: StoreRef | None = None) -> ClipRows:
    """The clips of this store, or those that it was made from; or those of a run.

    what: as `find` takes it. run: the address of a run's own clips, if `what` names a run. Raises
    LookupError if there are none, IncompleteStore if they are not all made.
    """
    ref = run or find(what, root)
    if store.read_manifest(ref).stage != CLIP:
        found = [node.ref for node in ancestry(ref) if node.manifest.stage == CLIP]
        if not found:
            raise LookupError(
                f"{ref} was not made from clips: expected a version of the stage '{CLIP}', one "
                "made from it, or a run; `roboscape status` shows what there is"
            )
        ref = found[-1]
    rows = open_rows(ref)
    assert isinstance(rows, ClipRows), rows
    return rows


def episodes_root(clips: ClipRows) -> Path | None:
    """The folder of the episodes that the clips were cut from; None if it is not there any more."""
    index = store.read_manifest(clips.index.ref)
    root = index.attributes.get("root")
    return Path(root) if root and Path(root).is_dir() else None
