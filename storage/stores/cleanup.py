"""Finding stores, deleting them, and finding what crashed runs left behind."""

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
    """All stores below `root`, complete or not, by stage and key."""
    files = open_files(root)
    refs = [
        StoreRef.at(root, stage, key)
        for stage in files.list(STORES)
        for key in files.list(f"{STORES}/{stage}")
    ]
    return [ref for ref in refs if open_files(ref.uri).exists("manifest.json")]


def delete(ref: StoreRef) -> None:
    """Deletes a store. The seal goes first, then the manifest, so that at no moment half of it
    looks whole.

    What this machine's cache holds of it goes too: a result that is made anew must not go on from
    there.
    """
    files = open_files(ref.uri)
    for name in ("complete.json", "manifest.json"):
        files.delete(name)
    files.delete_tree("")
    if files.local("") is None:
        shutil.rmtree(cache_folder(ref), ignore_errors=True)


def garbage(root: str, older_than_s: float) -> list[str]:
    """Addresses of what no store needs: parts that no commit names, unfinished files, remains of
    deleted stores.

    A part that its worker has finished and its driver not yet committed looks just the same:
    `older_than_s` must be longer than the longest that a shard takes and waits. The working folders
    of unfinished results are not garbage: a run goes on from them.
    """
    files, limit = open_files(root), time.time() - older_than_s
    by_store: dict[str, list[FileInfo]] = defaultdict(list)
    for info in files.walk(STORES):
        folder = info.path.split("/")[:-1]
        if len(folder) >= 3:  # a file that lies beside the stores is not ours
            by_store["/".join(folder[:3])].append(info)
    found: list[str] = []
    for folder, infos in sorted(by_store.items()):
        if not files.exists(f"{folder}/manifest.json"):
            found += [folder] if _newest(infos) < limit else []
            continue
        found += [info.path for info in infos if _unfinished(info) and info.modified < limit]
        found += [part for part, newest in _orphans(files, folder, infos) if newest < limit]
    return [f"{root.rstrip('/')}/{path}" for path in found]


def sweep(root: str, older_than_s: float) -> list[str]:
    """Deletes what `garbage` finds and returns it."""
    found, files = garbage(root, older_than_s), open_files(root)
    for uri in found:
        path = uri.removeprefix(f"{root.rstrip('/')}/")
        files.delete(path) if TEMP_MARK in path.rsplit("/", 1)[-1] else files.delete_tree(path)
    return found


def _orphans(files: Files, folder: str, infos: Iterable[FileInfo]) -> list[tuple[str, float]]:
    """Parts and published folders that no commit and no seal names, each with the time of its
    newest file.
    """
    parts: dict[str, list[FileInfo]] = defaultdict(list)
    for info in infos:
        where = info.path.removeprefix(f"{folder}/").split("/")
        if where[0] == "parts":
            parts["/".join(where[:2])].append(info)
        elif where[0].startswith("files-"):
            parts[where[0]].append(info)
    # Read after the files were listed, so that a part that is committed meanwhile is not taken for
    # garbage.
    named = _named(open_files(f"{files.uri}/{folder}")) if parts else set()
    return [
        (f"{folder}/{part}", _newest(found))
        for part, found in sorted(parts.items())
        if part not in named
    ]


def _named(store: Files) -> set[str]:
    """The folders in a store that count. The seal is asked too: readers go by it, even where a
    commit was lost.
    """
    seal = read_document(store, "complete.json") if store.exists("complete.json") else {}
    sealed = {PartRecord.from_json(part).part for part in seal.get("parts", ())} | {
        seal.get("folder", "")
    }
    return sealed | {read_record(store, f"commits/{name}").part for name in store.list("commits")}


def _unfinished(info: FileInfo) -> bool:
    """Our own temporary files; what a stage keeps in its working folder is its own business."""
    inside = info.path.split("/")[3:]
    return TEMP_MARK in inside[-1] and inside[0] not in ("parts", "work", "files")


def _newest(infos: Iterable[FileInfo]) -> float:
    return max(info.modified for info in infos)
