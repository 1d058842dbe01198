"""`roboscape repair`: makes again what is damaged in a store, and nothing else.

Of a store of clips, the shards that `examine` finds fault with are withdrawn, and the run that made
the store makes them again. A result has no parts: all of it is made again. A lost seal or manifest
is written again from what is there.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from pipeline.cli.needs import readable_journals
from pipeline.cli.run import drive
from pipeline.cli.verify import print_verified_store
from pipeline.lineage.graph import find
from pipeline.orchestration.command_store import MADE_BY
from pipeline.orchestration.plan import planned
from pipeline.orchestration.recipe import describe
from pipeline.settings import Settings
from storage.errors import CorruptFile, StoreError
from storage.files import open_files
from storage.stores import cleanup, leases, store
from storage.stores.records import StoreRef, store_name
from storage.stores.verify import examine


@dataclass
class Damage:
    """What is wrong with a store, and how much of it must be made again."""

    ref: StoreRef
    problems: list[str]
    shards: list[int] = field(default_factory=list)
    everything: bool = False

    @property
    def to_make(self) -> bool:
        return bool(self.shards) or self.everything

    def __str__(self) -> str:
        if self.everything:
            return f"{self.ref}: all of it is made again"
        if self.shards:
            return f"{self.ref}: shards {', '.join(map(str, self.shards))} are made again"
        what = "seal" if self.problems else "manifest"
        return f"{self.ref}: its {what} is written again"


def repair(what: str | None, settings: Settings, out: Console, backend: str | None = None) -> None:
    """Repairs the store, or all stores, and verifies the outcome.

    Raises LookupError if there is no such store, or no run of this workspace that made it;
    CorruptFile if it is still damaged afterwards.
    """
    refs = [find(what, settings.stores)] if what else cleanup.list_stores(settings.stores)
    damages = [damage for ref in refs if (damage := examined(ref, settings)) is not None]
    # Which run makes it again is known before anything is withdrawn
    requests = {str(d.ref): request_of(d.ref, settings) for d in damages if d.to_make}
    if damages:
        with removing([damage.ref for damage in damages], settings):
            for damage in damages:
                withdraw(damage)
                out.print(str(damage), markup=False)
    for stages, request in by_request(damages, requests):
        changes = {"stages": stages, "force": False} | ({"backend": backend} if backend else {})
        drive(request | changes, settings, out)
    if not all([print_verified_store(damage.ref, out, full=True) for damage in damages]):
        raise CorruptFile("what was made again is damaged, too: check this machine's disk")
    if not damages:
        out.print("every checksum is right: nothing to repair")


def examined(ref: StoreRef, settings: Settings) -> Damage | None:
    """The store's damage, None if it has none; a damaged manifest is written again first."""
    found = examine(ref, "full")
    if not found.messages:
        return None
    if found.manifest:
        rewrite_manifest(ref, settings)
        found = examine(ref, "full")
    if store.read_manifest(ref).kind != "clips":
        return Damage(ref, found.messages, everything=bool(found.messages))
    lost = store.missing_shards(ref) if store.is_complete(ref) else []  # sealed, but no commit
    return Damage(ref, found.messages, shards=sorted({*found.shards, *lost}))


def rewrite_manifest(ref: StoreRef, settings: Settings) -> None:
    """Writes the manifest again from the run's recipe, which has the same key."""
    stage, inputs, _ = planned(request_of(ref, settings), settings).planned[ref.stage]
    note = f"the manifest was damaged; repaired {datetime.now(UTC):%Y-%m-%d}, with the code of then"
    manifest = describe(stage, inputs, ref)
    manifest = replace(manifest, attributes={**manifest.attributes, "repaired": note})
    with removing([ref], settings):
        open_files(ref.uri).delete(store.MANIFEST)
        store.create(ref, manifest)


def request_of(ref: StoreRef, settings: Settings) -> dict[str, Any]:
    """The request of the newest run of this workspace that still leads to this very store.

    Raises LookupError if there is none, such as for what a command made without a run.
    """
    if command := made_by(ref):
        raise LookupError(
            f"{ref} is damaged, and no run can make it again, since {command} made it: `roboscape "
            f"delete {ref}`, and give that command again"
        )
    runs = [
        journal
        for journal in readable_journals(settings)
        if any(entry.uri and store_name(entry.uri) == str(ref) for entry in journal.stages)
    ]
    for journal in reversed(runs):
        found = planned(journal.request, settings).planned.get(ref.stage)
        if found is not None and found[2] == ref:
            return journal.request
    why = (
        "of the runs that did, none leads to this key now (its episodes or the code have changed)"
        if runs
        else "there is no journal of a run that did"
    )
    raise LookupError(
        f"{ref} is damaged, and this workspace cannot make it again: {why}. Repair it in the "
        f"workspace that made it, or `roboscape delete {ref}` and run its experiment again"
    )


def made_by(ref: StoreRef) -> str:
    """The command that made the store, in words; empty if a run did, or the manifest is damaged."""
    try:
        return store.read_manifest(ref).attributes.get(MADE_BY, "")
    except (StoreError, OSError, ValueError, TypeError, KeyError):
        return ""


def withdraw(damage: Damage) -> None:
    """Takes the damaged parts out of the store, so that a run makes them again."""
    ref = damage.ref
    if damage.everything:
        cleanup.delete(ref)
        return
    for shard in damage.shards:
        store.retract(ref, shard)
    if damage.problems and not damage.shards:
        open_files(ref.uri).delete(store.COMPLETE)
        store.seal(ref)


def removing(refs: list[StoreRef], settings: Settings) -> AbstractContextManager[None]:
    """A lease for deleting parts of the stores; raises StoreInUse if a live run uses one."""
    return leases.removing(refs, home=str(settings.home), what="`roboscape repair`")


def by_request(
    damages: list[Damage], requests: dict[str, dict[str, Any]]
) -> list[tuple[list[str], dict[str, Any]]]:
    """Stages to make in one run each; a run makes them in the order of the data path."""
    grouped: list[tuple[list[str], dict[str, Any]]] = []
    for damage in damages:
        request = requests.get(str(damage.ref))
        if request is None:
            continue
        same = next((stages for stages, other in grouped if other == request), None)
        if same is None:
            grouped.append(([damage.ref.stage], request))
        else:
            same.append(damage.ref.stage)
    return grouped
