"""`roboscape gc`: files of killed workers and, on request, stores that no run uses any more."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pipeline.cli.needs import (
    created_s,
    named_by_commands,
    named_by_runs,
    read_manifests,
    readable_journals,
    with_upstream,
)
from pipeline.settings import Settings
from storage.errors import StoreInUse
from storage.stores import cleanup, leases
from storage.stores.records import StoreRef

NOTHING = "nothing to collect"


@dataclass
class Unneeded:
    """Stores that no record names. `unknown`: too old for a record of who used them."""

    stores: list[StoreRef] = field(default_factory=list)
    unknown: list[StoreRef] = field(default_factory=list)


def collect(
    settings: Settings, out: Console, *, delete: bool, unused: bool, older_than_s: float
) -> None:
    """Lists them, or with `delete` removes them.

    Raises StoreInUse if something is to be deleted while a run is alive, here or in another
    workspace with stores at the same root, since its parts look like garbage; UnreadableRecord if a
    record that may say so cannot be read.
    """
    root = settings.stores
    if not delete:
        found = unneeded_stores(settings, older_than_s) if unused else Unneeded()
        garbage = cleanup.garbage(root, older_than_s)
        show(out, "garbage", garbage, "unused", found)
        out.print("nothing was deleted; add --delete" if garbage or found.stores else NOTHING)
        return
    if alive := [journal for journal in readable_journals(settings) if journal.alive]:
        raise StoreInUse(
            f"run {alive[0].id} of this workspace is alive ({alive[0].driver}): wait for it, or "
            "stop it, before `roboscape gc --delete`"
        )
    with leases.hold(root, home=str(settings.home), what="`roboscape gc`") as lease:
        lease.acquire(removes=leases.ALL)
        found = unneeded_stores(settings, older_than_s) if unused else Unneeded()
        garbage = cleanup.sweep(root, older_than_s)
        for ref in found.stores:
            cleanup.delete(ref)
        lease.retire_dead()
    show(out, "deleted", garbage, "deleted", found)
    if not garbage and not found.stores:
        out.print(NOTHING)


def show(out: Console, of_files: str, garbage: list[str], of_stores: str, found: Unneeded) -> None:
    for path in garbage:
        out.print(f"{of_files}: {path}", markup=False)
    for ref in found.stores:
        out.print(f"{of_stores}: {ref.uri}", markup=False)
    for ref in found.unknown:
        out.print(
            f"kept: {ref.uri} is older than the records of who uses stores there; "
            f"`roboscape delete {ref}` deletes it",
            markup=False,
        )


def unneeded_stores(settings: Settings, older_than_s: float) -> Unneeded:
    """Stores that no run used, of this workspace or another, that no command made by itself, and
    that nothing used was made from.

    Raises UnreadableRecord if a journal, a lease or a manifest cannot be read.
    """
    root, limit = settings.stores, time.time() - older_than_s
    manifests = read_manifests(root)
    named = named_by_commands(root, manifests) | named_by_runs(settings, root)
    needed = with_upstream(named, manifests)
    # Before the first record, other workspaces may have used a shared root without a note
    recorded_since = 0.0 if is_private(settings) else first_record_s(root)
    found = Unneeded()
    for name, manifest in manifests.items():
        created = created_s(manifest)
        if name not in needed and created < limit:
            known = found.stores if created >= recorded_since else found.unknown
            known.append(StoreRef.under(root, name))
    return found


def is_private(settings: Settings) -> bool:
    """Whether the stores are in the workspace's own folder."""
    if "://" in settings.stores:
        return False
    return Path(settings.stores).resolve().is_relative_to(settings.home.resolve())


def first_record_s(root: str) -> float:
    """When the first user of the root noted itself there; the future if none did."""
    records = [*leases.read_records(root, leases.LEASES), *leases.read_records(root, leases.USES)]
    return min((r.user.since for r in records if r.user), default=float("inf"))
