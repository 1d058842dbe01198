"""`roboscape delete`: one store, unless others need it."""

from rich.console import Console

from pipeline.cli.needs import downstream, named_by_others, read_manifests, readable_journals
from pipeline.lineage.graph import find
from pipeline.settings import Settings
from storage.errors import StoreError, StoreNeeded
from storage.stores import cleanup, leases, store
from storage.stores.records import StoreRef


def delete_store(
    what: str, settings: Settings, out: Console, *, and_after: bool = False, force: bool = False
) -> None:
    """Deletes the store and, with `and_after`, what was made from it; prints what it deleted.

    force: also if finished runs of other workspaces used them. Raises StoreInUse if a live run
    uses one, StoreNeeded if something else needs one, LookupError if there is no such store.
    """
    ref = exactly(what, settings.stores)
    with leases.hold(ref.root, home=str(settings.home), what="`roboscape delete`") as lease:
        # Of two damaged stores, one must be deleted first
        after = downstream(ref, read_manifests(ref.root, skip_unreadable=is_damaged(ref)))
        if after and not and_after:
            raise StoreNeeded(
                f"{ref} is needed by what was made from it: {', '.join(map(str, after))}. "
                f"`roboscape delete {ref} --and-after` deletes these, too"
            )
        targets = [*after, ref]  # the last made first: if killed, no store lacks its input
        lease.acquire(removes={str(target) for target in targets})
        if not force:
            refuse_if_used_elsewhere(targets, settings)
        for target in targets:
            cleanup.delete(target)
            out.print(f"deleted: {target.uri}", markup=False)


def exactly(what: str, root: str) -> StoreRef:
    """The store of this key. Raises ValueError for a stage's name, which means "the newest"."""
    ref = find(what, root)
    if what.strip("/") in ("", ref.stage):
        raise ValueError(f"'{what}' is no key: to delete the newest store of it, say {ref}")
    return ref


def is_damaged(ref: StoreRef) -> bool:
    """Whether the store's own manifest cannot be read."""
    try:
        store.read_manifest(ref)
    except (StoreError, ValueError, TypeError, KeyError):
        return True
    return False


def refuse_if_used_elsewhere(targets: list[StoreRef], settings: Settings) -> None:
    own_runs = {journal.id for journal in readable_journals(settings)}
    users = named_by_others(settings, targets[0].root, own_runs)
    for target in targets:
        if who := users.get(str(target)):
            raise StoreNeeded(
                f"{target} was used by {who}: ask there, or `roboscape delete {target} --force`"
            )
