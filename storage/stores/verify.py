"""Checks stored data: is everything there, and is it what was written?"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from storage.errors import CorruptFile, StoreError
from storage.files import Files, open_files, read_checked, sha256_file
from storage.stores.binding import committed_checks
from storage.stores.key import content_key, recipe_of
from storage.stores.records import Manifest, PartRecord, StoreRef, read_record, shard_of_commit
from storage.stores.results import Result
from storage.stores.shards import Shard, open_zarr, shard_path
from storage.stores.store import (
    MANIFEST,
    counts_of,
    digest,
    is_complete,
    manifest_digest,
    read_complete,
    read_manifest,
    read_rejected,
    shard_rows,
)


@dataclass
class Findings:
    """What is wrong with a store: one message per fault, naming the file, and where the faults are.

    shards: those with a fault in their files or commit. manifest: whether it is damaged itself.
    """

    uri: str
    messages: list[str] = field(default_factory=list)
    shards: set[int] = field(default_factory=set)
    manifest: bool = False

    def run(
        self,
        check: Callable[..., Any],
        *arguments: Any,
        shard: int | None = None,
        manifest: bool = False,
    ) -> Any:
        """The result of `check`, or None with its message noted, and what it blames."""
        try:
            return check(*arguments)
        except (StoreError, OSError) as error:
            self.messages.append(str(error))
        except (ValueError, LookupError, TypeError) as error:  # from nonsense in a file
            self.messages.append(f"{self.uri}: {error!r}")
        self.manifest |= manifest
        if shard is not None:
            self.shards.add(shard)
        return None


def verify(ref: StoreRef, level: Literal["quick", "full"] = "quick") -> list[str]:
    """The messages of `examine`; empty if nothing is wrong."""
    return examine(ref, level).messages


def examine(ref: StoreRef, level: Literal["quick", "full"] = "quick") -> Findings:
    """What is wrong with a store.

    quick: the JSON files, every file's presence and size, the shard indices, the Zarr metadata.
    full: also every chunk of every shard and every byte of a result. Of an incomplete store, what
    is committed is checked.
    """
    found, files, full = Findings(ref.uri), open_files(ref.uri), level == "full"
    manifest = found.run(read_manifest, ref, manifest=True)
    seal = found.run(read_complete, ref) if is_complete(ref) else None
    if manifest is None:
        return found
    found.run(_check_recipe, ref, manifest, seal, manifest=True)
    if manifest.kind != "clips":
        for name in seal["files"] if seal else ():
            found.run(_check_result_file, files, Result(ref), name, full)
        return found
    records = [
        found.run(read_record, files, f"commits/{name}", shard=shard_of_commit(name))
        for name in files.list("commits")
    ]
    for record in filter(None, records):
        _check_part(found, files, ref, manifest, record, full)
    if seal is not None and None not in records:
        found.run(_check_seal, ref, manifest, records, seal)
    return found


def _check_part(
    found: Findings,
    files: Files,
    ref: StoreRef,
    manifest: Manifest,
    record: PartRecord,
    full: bool,
) -> None:
    before = len(found.messages)
    run = partial(found.run, shard=record.shard)
    run(_check_counts, files, manifest, record)
    checks = run(committed_checks, files, ref, record) or {}
    for path in record.files:
        run(_check_file, files, manifest, record, path, checks.get(path), full)
    if len(found.messages) == before:  # else Zarr would only report the same fault
        run(_check_zarr, files, manifest, record)


def _check_counts(files: Files, manifest: Manifest, record: PartRecord) -> None:
    rows = shard_rows(manifest, record.shard)
    n_rejected = len(record.rejects)
    placed = (record.first_row, record.n) == (rows.start, len(rows))
    if not placed or record.made + n_rejected != record.n:
        raise CorruptFile(
            f"{files.uri}/{record.commit_path}: {record.n} rows from {record.first_row}, "
            f"{record.made} made and {n_rejected} rejected; expected {len(rows)} rows from "
            f"{rows.start}"
        )


def _check_file(
    files: Files,
    manifest: Manifest,
    record: PartRecord,
    path: str,
    checks: bytes | None,
    full: bool,
) -> None:
    """Checks a shard file by size, index and (full) chunk, to name the row; other files whole.

    A quick check compares the first and the last chunk's checksum with the commit.
    """
    expected, where = record.files[path], f"{record.part}/{path}"
    spec = next((spec for spec in manifest.specs if shard_path(spec) == path), None)
    if spec is None:
        read_checked(files, where, expected)
        return
    shard = Shard(files, where, spec, record.n, expected.size, record.first_row, checks)
    _check_size(files, where, expected.size)
    for i in sorted({0, record.n - 1}):
        shard.check_place(i)
    if full and (found := shard.check_all()) != record.chunks.get(path, found):
        raise CorruptFile(
            f"{files.uri}/{where} is an intact shard file, but not the one that was committed"
        )


def _check_size(files: Files, path: str, expected: int) -> None:
    if (size := files.size(path)) != expected:
        raise CorruptFile(f"{files.uri}/{path} has {size} bytes, {expected} were written")


def _check_zarr(files: Files, manifest: Manifest, record: PartRecord) -> None:
    """Raises CorruptFile unless zarr-python sees the arrays that the manifest lists."""
    group = open_zarr(files, record.part)
    for spec in manifest.specs:
        array: Any = group[spec.name]
        if array.shape != (record.n, *spec.shape) or array.dtype != spec.dtype:
            raise CorruptFile(
                f"{files.uri}/{record.part}: Zarr sees '{spec.name}' as "
                f"{array.dtype}{list(array.shape)}, the manifest says "
                f"{spec.dtype}{[record.n, *spec.shape]}"
            )


def _check_recipe(ref: StoreRef, manifest: Manifest, seal: dict[str, Any] | None) -> None:
    """Raises CorruptFile if the manifest is not the one of the store's key, or of its seal."""
    recipe = recipe_of(manifest.stage, manifest.version, manifest.parameters, manifest.input_keys)
    if (key := content_key(recipe)) != manifest.key:
        raise CorruptFile(
            f"{ref.uri}/{MANIFEST}: its version, parameters and inputs have the key {key}, not "
            f"{manifest.key}: it was changed after the store was made, and no longer says how"
        )
    if seal is not None and seal.get("manifest", digest_now := manifest_digest(ref)) != digest_now:
        raise CorruptFile(
            f"{ref.uri}/{MANIFEST} is not the one that was there when the store was sealed"
        )


def unbound(ref: StoreRef) -> str | None:
    """Why a sealed store of an earlier version can be checked less; None for one of this version.

    No fault: such stores are read as ever.
    """
    seal = read_complete(ref)
    if "manifest" in seal:
        return None
    return (
        f"{ref} was sealed by an earlier version: its seal is not bound to its manifest, nor its "
        "chunks to their places. A full check still finds exchanged files; remade, it has both"
    )


def _check_seal(
    ref: StoreRef, manifest: Manifest, records: list[PartRecord], seal: dict[str, Any]
) -> None:
    sealed = {part["shard"]: part["attempt"] for part in seal["parts"]}
    committed = {record.shard: record.attempt for record in records}
    if sealed != committed:
        shards = sorted({shard for shard, _ in sealed.items() ^ committed.items()})
        raise CorruptFile(
            f"{ref.uri}: the seal and the commits name different parts of shards {shards}"
        )
    if seal["digest"] != digest(manifest, records):
        raise CorruptFile(f"{ref.uri}: the seal's digest is not that of the committed parts")
    expected = [reject for record in records for reject in record.rejects]
    if read_rejected(ref) != expected:
        raise CorruptFile(f"{ref.uri}: the table of rejected rows is not that of the commits")
    counted = counts_of(manifest, records)
    wrong = {name: seal.get(name) for name in counted if seal.get(name) != counted[name]}
    if wrong:
        raise CorruptFile(
            f"{ref.uri}: the seal says {wrong}, the commits say "
            f"{ {name: counted[name] for name in wrong} }"
        )


def _check_result_file(files: Files, result: Result, name: str, full: bool) -> None:
    path, expected = f"{result.folder}/{name}", result.files[name]
    _check_size(files, path, expected["size"])
    if not full:
        return
    local = files.local(path)
    found = sha256_file(local) if local else hashlib.sha256(files.read(path)).hexdigest()
    if found != expected["sha256"]:
        raise CorruptFile(
            f"{files.uri}/{path} has the SHA-256 {found}, expected {expected['sha256']}"
        )
