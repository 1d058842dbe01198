"""Lists stores, deletes them, and finds what crashed runs left behind."""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterable

from storage.atomic import TEMP_MARK
from storage.files import FileInfo, Files, open_files
from storage.stores.records import (
    STORES,
    PartRecord,
    StoreRef,
    cache_folder,
    read_document,
    read_record,
)


def list_stores(root: str) -> list[StoreRef]:
    """All stores under `root`, complete or not, by stage and key."""
    files = open_files(root)
    refs = [
        StoreRef.at(root, stage, key)
        for stage in files.list(STORES)
        for key in files.list(f"{STORES}/{stage}")
    ]
    return [ref for ref in refs if open_files(ref.uri).exists("manifest.json")]


def delete(ref: StoreRef) -> None:
    """Deletes a store: seal and manifest first, so that half a store never looks complete.

    This machine's cache of it is deleted too: a result that is made again must not resume there.
    """
    files = open_files(ref.uri)
    for name in ("complete.json", "manifest.json"):
        files.delete(name)
    files.delete_tree("")
    if files.local("") is None:
        shutil.rmtree(cache_folder(ref), ignore_errors=True)


def garbage(root: str, older_than_s: float) -> list[str]:
    """Paths that no store needs: parts without a commit, unfinished files, rests of deleted stores.

    A part that is finished and not yet committed looks the same, so `older_than_s` must exceed the
    longest time that a shard takes and waits. The working folders of unfinished results are no
    garbage: a run resumes from them.
    """
    files, limit = open_files(root), time.time() - older_than_s
    by_store: dict[str, list[FileInfo]] = defaultdict(list)
    for info in files.walk(STORES):
        folder = info.path.split("/")[:-1]
        if len(folder) >= 3:  # a file beside the stores is not ours
            by_store["/".join(folder[:3])].append(info)
    found: list[str] = []
    for folder, infos in sorted(by_store.items()):
        if not files.exists(f"{folder}/manifest.json"):
            # `delete` takes the seal first: with a seal, this is a store whose manifest was lost
            deleted = not files.exists(f"{folder}/complete.json")
            found += [folder] if deleted and _newest(infos) < limit else []
            continue
        found += [info.path for info in infos if _unfinished(info) and info.modified < limit]
        found += [part for part, newest in _orphans(files, folder, infos) if newest < limit]
    return [f"{root.rstrip('/')}/{path}" for path in found]


def sweep(root: str, older_than_s: float) -> list[str]:
    """Deletes what `garbage` finds; returns the paths."""
    found, files = garbage(root, older_than_s), open_files(root)
    for uri in found:
        path = uri.removeprefix(f"{root.rstrip('/')}/")
        files.delete(path) if TEMP_MARK in path.rsplit("/", 1)[-1] else files.delete_tree(path)
    return found


def _orphans(files: Files, folder: str, infos: Iterable[FileInfo]) -> list[tuple[str, float]]:
    """Parts and published folders that no commit or seal names; with their newest file's time."""
    parts: dict[str, list[FileInfo]] = defaultdict(list)
    for info in infos:
        where = info.path.removeprefix(f"{folder}/").split("/")
        if where[0] == "parts":
            parts["/".join(where[:2])].append(info)
        elif where[0].startswith("files-"):
            parts[where[0]].append(info)
    # Read after the listing: a part that is committed in between must not count as garbage.
    named = _named(open_files(f"{files.uri}/{folder}")) if parts else set()
    return [
        (f"{folder}/{part}", _newest(found))
        for part, found in sorted(parts.items())
        if part not in named
    ]


def _named(store: Files) -> set[str]:
    """The folders in a store that count. Readers trust the seal, even where a commit was lost."""
    seal = read_document(store, "complete.json") if store.exists("complete.json") else {}
    sealed = {PartRecord.from_json(part).part for part in seal.get("parts", ())}
    committed = {read_record(store, f"commits/{name}").part for name in store.list("commits")}
    return sealed | committed | {seal.get("folder", "")}


def _unfinished(info: FileInfo) -> bool:
    """Our own temporary files, not those that a stage keeps in its working folder."""
    inside = info.path.split("/")[3:]
    return TEMP_MARK in inside[-1] and inside[0] not in ("parts", "work", "files")


def _newest(infos: Iterable[FileInfo]) -> float:
    return max(info.modified for info in infos)
