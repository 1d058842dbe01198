"""Which stores somebody needs: whoever deletes stores asks here first.

A store is needed by the runs of this workspace (their journals), by the runs of others (what they
noted at the stores' root), by the command that made it without a run, and by whatever needed store
was made from it. What cannot be read never counts as "not needed".
"""

from collections.abc import Mapping
from datetime import datetime

from pipeline.orchestration.command_store import MADE_BY
from pipeline.orchestration.journal import Journal, read_all
from pipeline.settings import Settings
from storage.errors import StoreError, UnreadableRecord
from storage.processes import host_name
from storage.stores import cleanup, leases, store
from storage.stores.records import Manifest, StoreRef, store_name


def readable_journals(settings: Settings) -> list[Journal]:
    """All journals of this workspace. Raises UnreadableRecord if one cannot be read."""
    known, unreadable = read_all(settings.runs)
    if unreadable:
        raise UnreadableRecord(
            f"the journal {unreadable[0]}. It may be of a run that needs stores: restore it, or "
            "delete the file if no store of that run is needed, and try again."
        )
    return known


def named_by_runs(settings: Settings, root: str) -> dict[str, str]:
    """`stage/key` of each store that a run used -> whose run, in words.

    Runs of this workspace count for as long as their journal is kept.
    """
    journals = readable_journals(settings)
    found = {
        store_name(entry.uri): f"run {journal.id} of this workspace"
        for journal in journals
        for entry in journal.stages
        if entry.uri
    }
    return found | named_by_others(settings, root, {journal.id for journal in journals})


def named_by_others(settings: Settings, root: str, own_runs: set[str]) -> dict[str, str]:
    """The same for other workspaces, as they noted it at the root."""
    found: dict[str, str] = {}
    for record in (
        *leases.read_records(root, leases.LEASES),
        *leases.read_records(root, leases.USES),
    ):
        user = record.user
        if user is None:
            raise leases.unreadable_record(root, record)
        is_ours = (user.home, user.process.host) == (str(settings.home), host_name())
        if not is_ours and user.run not in own_runs:
            found |= dict.fromkeys(user.stores, str(user))
    return found


def named_by_commands(root: str, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """`stage/key` of each store that a command made by itself -> the command, in words.

    Not of what a killed command left unfinished: the same command makes that from the start.
    """
    made = {name: manifest.attributes.get(MADE_BY) for name, manifest in manifests.items()}
    return {
        name: f"{command}, which made it"
        for name, command in made.items()
        if command and store.is_complete(StoreRef.under(root, name))
    }


def with_upstream(named: Mapping[str, str], manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Adds what the needed stores were made from."""
    found: dict[str, str] = {}
    to_visit = list(named.items())
    while to_visit:
        name, who = to_visit.pop()
        if name not in found:
            found[name] = who
            inputs = manifests[name].inputs.values() if name in manifests else ()  # deleted
            to_visit += [(each, f"{name}, which is needed by {who}") for each in inputs]
    return found


def read_manifests(root: str, *, skip_unreadable: bool = False) -> dict[str, Manifest]:
    """Of every store, by `stage/key`. Raises UnreadableRecord if one cannot be read."""
    found: dict[str, Manifest] = {}
    for ref in cleanup.list_stores(root):
        try:
            found[str(ref)] = store.read_manifest(ref)
            created_s(found[str(ref)])
        except (StoreError, OSError, ValueError, TypeError, KeyError) as error:
            found.pop(str(ref), None)
            if skip_unreadable:
                continue
            raise UnreadableRecord(
                f"the manifest of {ref.uri} cannot be read ({error}), so what it needs is not "
                f"known: `roboscape repair {ref}` writes it again, `roboscape delete {ref}` "
                "deletes the store"
            ) from error
    return found


def downstream(ref: StoreRef, manifests: Mapping[str, Manifest]) -> list[StoreRef]:
    """What was made from the store, directly or not, the last made first."""
    made_from_it = {str(ref)}
    while True:
        more = {
            name
            for name, manifest in manifests.items()
            if name not in made_from_it
            and made_from_it & {*manifest.inputs.values(), manifest.index_uri}
        }
        if not more:
            break
        made_from_it |= more
    names = sorted(made_from_it - {str(ref)}, key=lambda name: created_s(manifests[name]))
    return [StoreRef.under(ref.root, name) for name in reversed(names)]


def created_s(manifest: Manifest) -> float:
    """When the store was begun, in seconds since 1970; 0 if its manifest does not say."""
    return datetime.fromisoformat(manifest.created).timestamp() if manifest.created else 0.0
