"""What a command's STORE names: the clips of a store or of a run, and a run's other stores."""

from pipeline.lineage.clips import CLIP, find_clips
from pipeline.orchestration.journal import Journal, find_journal, names_run
from pipeline.settings import Settings
from storage.stores.records import StoreRef
from storage.stores.rows import ClipRows


def clips_of(what: str, settings: Settings) -> ClipRows:
    """what: as `find` takes it, or a run's id. Raises LookupError, naming what there is."""
    if not names_run(what):
        return find_clips(what, settings.stores)
    journal = find_journal(settings.runs, what)
    return find_clips(what, settings.stores, stage_store(journal, CLIP))


def stage_store(journal: Journal, stage: str) -> StoreRef:
    """What the run has of a stage. Raises LookupError if that is nothing yet."""
    uri = next((entry.uri for entry in journal.stages if entry.name == stage), "")
    if not uri:
        raise LookupError(
            f"run {journal.id} ({journal.request.get('experiment')}) has no {stage} store yet: "
            f"`roboscape status {journal.id}` shows how far it came"
        )
    return StoreRef(uri)
