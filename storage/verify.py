"""Checking stores at rest: is everything there, and is it what was written?"""

from collections.abc import Callable
from typing import Any, Literal

import crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptFile, StoreError
from storage.files import FileRecord, Files, open_files
from storage.records import Manifest, PartRecord, StoreRef
from storage.results import FILES, Result, require_sha256
from storage.shards import Shard, open_zarr, shard_path
from storage.store import REJECTED, digest, is_complete, read_complete, read_manifest, read_records, shard_rows


def verify(ref: StoreRef, level: Literal["quick", "full"] = "quick") -> list[str]:
    """What is wrong with a store, one message each, naming the file; empty if nothing is.

    quick: the JSON files, every file's presence and size, the shard indices, the Zarr metadata. full: every chunk of
    every shard, every byte of a result. Of a store that is not complete, what is committed is checked.
    """
    problems: list[str] = []

    def attempt(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except (StoreError, OSError, ValueError) as error:
            problems.append(str(error))

    files, full = open_files(ref.uri), level == "full"
    manifest = attempt(read_manifest, ref)
    seal = attempt(read_complete, ref) if is_complete(ref) else None
    if manifest is None or manifest.kind != "clips":
        for name in seal["files"] if seal else ():
            attempt(_check_result_file, files, ref, name, full)
        return problems
    records = attempt(read_records, ref) or {}
    for record in records.values():
        attempt(_check_counts, files, manifest, record)
        for path in record.files:
            attempt(_check_file, files, manifest, record, path, full)
        attempt(_check_zarr, files, manifest, record)
    if seal is not None:
        attempt(_check_seal, files, manifest, records, seal)
    return problems


def _check_counts(files: Files, manifest: Manifest, record: PartRecord) -> None:
    rows = shard_rows(manifest, record.shard)
    if (record.first_row, record.n) != (rows.start, len(rows)) or record.made + len(record.rejects) != record.n:
        raise CorruptFile(
            f"{files.uri}/{record.commit_path}: {record.n} rows from {record.first_row}, {record.made} made and "
            f"{len(record.rejects)} rejected; expected {len(rows)} rows from {rows.start}"
        )


def _check_file(files: Files, manifest: Manifest, record: PartRecord, path: str, full: bool) -> None:
    """A shard file by its index and, in full, chunk by chunk, so that a message names the row; others as a whole."""
    expected, where = record.files[path], f"{record.part}/{path}"
    spec = next((spec for spec in manifest.specs if shard_path(spec) == path), None)
    if spec is not None:
        shard = Shard(files, where, spec, record.n, expected.size, record.first_row)
        for i in range(record.n) if full else ():
            shard.check(i)
        return
    data = files.read(where)
    found = FileRecord(len(data), crc32c.crc32c(data))
    if found != expected:
        raise CorruptFile(f"{files.uri}/{where}: found {found}, expected {expected}")


def _check_zarr(files: Files, manifest: Manifest, record: PartRecord) -> None:
    """Whether zarr-python sees the arrays that the manifest promises."""
    group = open_zarr(files, record.part)
    for spec in manifest.specs:
        array: Any = group[spec.name]
        if array.shape != (record.n, *spec.shape) or array.dtype != spec.dtype:
            raise CorruptFile(
                f"{files.uri}/{record.part}: Zarr sees '{spec.name}' as {array.dtype}{list(array.shape)}, the manifest "
                f"says {spec.dtype}{[record.n, *spec.shape]}"
            )


def _check_seal(files: Files, manifest: Manifest, records: dict[int, PartRecord], seal: dict[str, Any]) -> None:
    named = [part["attempt"] for part in seal["parts"]]
    if named != [record.attempt for record in records.values()]:
        raise CorruptFile(f"{files.uri}: the seal and the commits name different parts")
    if seal["digest"] != digest(manifest, list(records.values())):
        raise CorruptFile(f"{files.uri}: the seal's digest is not that of the committed parts")
    rejects = pq.read_table(pa.BufferReader(files.read(REJECTED)))
    expected = sorted(reject.row for record in records.values() for reject in record.rejects)
    if rejects["row"].to_pylist() != expected:
        raise CorruptFile(f"{files.uri}/{REJECTED} lists {rejects.num_rows} rows, the commits {len(expected)}")


def _check_result_file(files: Files, ref: StoreRef, name: str, full: bool) -> None:
    result, path = Result(ref), f"{FILES}/{name}"
    if files.size(path) != result.files[name]["size"]:
        raise CorruptFile(f"{files.uri}/{path} has {files.size(path)} bytes, {result.files[name]['size']} were written")
    local = files.local(path)
    if full:
        require_sha256(local, result.files[name]["sha256"], f"result {ref}") if local else result.file(name)
