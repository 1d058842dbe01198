"""`roboscape gc`: files of killed workers and, on request, stores that no run uses any more."""

import time
from datetime import datetime

from rich.console import Console

from pipeline.orchestration.journal import journals
from pipeline.settings import Settings
from storage.errors import StoreError
from storage.stores import cleanup, store
from storage.stores.records import StoreRef


def collect(
    settings: Settings, out: Console, *, delete: bool, unused: bool, older_than_s: float
) -> None:
    """Lists them, or with `delete` removes them.

    Raises RuntimeError if something is to be deleted while a run is alive, whose parts look like
    garbage, or unused stores at a root that others may share.
    """
    if delete and any(j.alive for j in journals(settings.runs)):
        raise RuntimeError(
            "a run is alive in this workspace; wait for it or stop it before `gc --delete`"
        )
    if delete and unused and not str(settings.stores).startswith(str(settings.home)):
        raise RuntimeError(
            f"the stores at {settings.stores} may be shared, and only this workspace's runs are "
            "known here: delete unused ones one by one"
        )
    collect_orphans = cleanup.sweep if delete else cleanup.garbage
    orphans = collect_orphans(settings.stores, older_than_s)
    stores = unused_stores(settings, older_than_s) if unused else []
    for path in orphans:
        out.print(f"{'deleted' if delete else 'garbage'}: {path}", markup=False)
    for ref in stores:
        if delete:
            cleanup.delete(ref)
        out.print(f"{'deleted' if delete else 'unused'}: {ref.uri}", markup=False)
    if not orphans and not stores:
        out.print("nothing to collect")
    elif not delete:
        out.print("nothing was deleted; add --delete")


def unused_stores(settings: Settings, older_than_s: float) -> list[StoreRef]:
    """Stores that no journal names and that nothing named was made from."""
    used: set[str] = set()

    def use(uri: str) -> None:
        if uri in used:
            return
        used.add(uri)
        try:
            upstream = store.read_manifest(StoreRef(uri)).inputs.values()
        except (StoreError, FileNotFoundError):
            return  # deleted, or never begun: it keeps nothing alive
        for input_uri in upstream:
            use(input_uri)

    for journal in journals(settings.runs):
        for entry in journal.stages:
            if entry.uri:
                use(entry.uri)
    return [
        r
        for r in cleanup.list_stores(settings.stores)
        if r.uri not in used and age_s(r) > older_than_s
    ]


def age_s(ref: StoreRef) -> float:
    created = store.read_manifest(ref).created
    return time.time() - datetime.fromisoformat(created).timestamp() if created else float("inf")
