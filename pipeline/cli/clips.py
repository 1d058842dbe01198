"""The clips that a command's STORE names: a store, what was made from one, or a run."""

import re

from pipeline.lineage.clips import CLIP, find_clips
from pipeline.orchestration.journal import find_journal
from pipeline.settings import Settings
from storage.stores.records import StoreRef
from storage.stores.rows import ClipRows

RUN_ID = re.compile(r"\d{8}-\d{6}(-[0-9a-f]*)?")


def clips_of(what: str, settings: Settings) -> ClipRows:
    """what: as `find` takes it, or a run's id. Raises LookupError, naming what there is."""
    if not RUN_ID.fullmatch(what):
        return find_clips(what, settings.stores)
    journal = find_journal(settings.runs, what)
    entry = next((entry for entry in journal.stages if entry.name == CLIP and entry.uri), None)
    if entry is None:
        raise LookupError(
            f"run {journal.id} has no stage '{CLIP}' yet: expected a run that has made its clips"
        )
    return find_clips(what, settings.stores, StoreRef(entry.uri))
