"""Stores of stages: create, write a shard, commit it, seal the store.

    <root>/format.json
    <root>/stores/<stage>/<key>/
        manifest.json              the recipe, before any work
        parts/<shard>-<attempt>/   one worker's shard: a Zarr v3 group, never changed again
        commits/<shard>.json       names the part that counts; created exclusively
        rejected.parquet           rows without data, and why
        complete.json              the seal; a store without it is visibly incomplete

A worker calls `write_part`, which makes nothing visible. The run's one driver calls `commit`, of
which the first for a shard counts, and then `seal`. A process may be killed between any two file
operations: what is committed stays, `cleanup.garbage` finds the rest.
"""

import hashlib
import io
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptFile, CorruptShard, DiskFull, IncompleteStore, StoreConflict
from storage.files import FileRecord, Files, open_files, read_checked
from storage.stores.binding import chunk_attribute, place_of
from storage.stores.records import (
    Manifest,
    PartRecord,
    Reject,
    StoreRef,
    commit_path,
    document_digest,
    encode_document,
    read_document,
    read_record,
    require_inside,
)
from storage.stores.shards import (
    Array,
    encode_shard,
    metadata_files,
    open_zarr,
    shard_path,
    tee_checksums,
)

FORMAT_NAME = "roboscape-stores"
# Readers refuse another major version and ignore what a later minor one adds (1.1: `chunks` of
# `PartRecord`; 1.2: the checksums of chunks in a part's attributes, `manifest` in a seal).
FORMAT = (1, 2)
MANIFEST, COMPLETE, REJECTED = "manifest.json", "complete.json", "rejected.parquet"
REJECTED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("clip_id", "reason", "detail", "kind")),
    ]
)


# Create and inspect


def create(ref: StoreRef, manifest: Manifest) -> None:
    """Creates the store if it is missing. An existing one keeps its `clips_per_shard`.

    Raises StoreConflict if an existing store has the same key and another recipe or other arrays.
    """
    named = (manifest.stage, manifest.key)
    assert (ref.stage, ref.key) == named, (ref, named)
    manifest = replace(manifest, created=manifest.created or _now())
    require_format(ref.root, make=True)
    if open_files(ref.uri).create(MANIFEST, encode_document(manifest.to_json())):
        return
    old, new = read_manifest(ref).to_json(), manifest.to_json()
    for name in ("kind", "version", "parameters", "specs", "n_clips"):
        if _plain(old[name]) != _plain(new[name]):
            raise StoreConflict(
                f"store {ref} exists with another {name}: found {old[name]}, expected {new[name]}. "
                "Two recipes share one key: raise the stage's `version`, or `roboscape delete "
                f"{ref}`."
            )


def require_format(root: str, *, make: bool = False) -> None:
    """Raises StoreConflict if this version cannot read the format of the stores under `root`."""
    files = open_files(root)
    expected = {"name": FORMAT_NAME, "version": ".".join(map(str, FORMAT))}
    if make and not files.exists("format.json"):
        files.create("format.json", encode_document(expected))
    found = read_document(files, "format.json")
    major = str(found.get("version", "")).partition(".")[0]
    if found.get("name") != FORMAT_NAME or major != str(FORMAT[0]):
        raise StoreConflict(
            f"{root}/format.json says {found}; this version reads '{FORMAT_NAME}' {FORMAT[0]}.x. "
            "Use the version of the pipeline that wrote it, or another root."
        )


def exists(ref: StoreRef) -> bool:
    return open_files(ref.uri).exists(MANIFEST)


def is_complete(ref: StoreRef) -> bool:
    return open_files(ref.uri).exists(COMPLETE)


def read_manifest(ref: StoreRef) -> Manifest:
    """The store's manifest. Raises FileNotFoundError if there is no such store."""
    files = open_files(ref.uri)
    if not files.exists(MANIFEST):
        raise FileNotFoundError(f"there is no store {ref.uri}: run its stage ('{ref.stage}') first")
    require_format(ref.root)
    content = read_document(files, MANIFEST)
    try:
        manifest = Manifest.from_json(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{ref.uri}/{MANIFEST} is no manifest: {error}") from error
    _require_own(ref, MANIFEST, content)
    return manifest


def read_complete(ref: StoreRef) -> dict[str, Any]:
    """The seal: counts, digest and, for clips, all part records.

    Raises IncompleteStore if it is missing.
    """
    try:
        seal = read_document(open_files(ref.uri), COMPLETE)
    except FileNotFoundError as error:
        raise IncompleteStore(
            f"store {ref.uri} is not complete: run its stage ('{ref.stage}') first"
        ) from error
    _require_own(ref, COMPLETE, seal)
    for name in (*seal.get("files", ()), seal.get("folder", "files")):
        require_inside(name, f"{ref.uri}/{COMPLETE}")
    return seal


def _require_own(ref: StoreRef, name: str, content: Mapping[str, Any]) -> None:
    """Raises CorruptFile if a file of the store says that it is another store's."""
    found = (content.get("stage"), content.get("key"))
    if found != (ref.stage, ref.key):
        raise CorruptFile(
            f"{ref.uri}/{name} is of the store {found[0]}/{found[1]}: the file or the folder was "
            "copied or renamed; expected one file or folder for each store, under its own name"
        )


def shard_rows(store: StoreRef | Manifest, shard: int) -> range:
    """The store's rows in shard `shard`."""
    manifest = read_manifest(store) if isinstance(store, StoreRef) else store
    if not 0 <= shard < manifest.n_shards:
        raise IndexError(
            f"store {manifest.stage}/{manifest.key} has no shard {shard}; it has "
            f"{manifest.n_shards}"
        )
    step = manifest.clips_per_shard or 1
    return range(shard * step, min((shard + 1) * step, manifest.n_clips or 0))


def missing_shards(ref: StoreRef) -> list[int]:
    committed = set(open_files(ref.uri).list("commits"))
    names = (
        (shard, commit_path(shard).split("/")[-1]) for shard in range(read_manifest(ref).n_shards)
    )
    return [shard for shard, name in names if name not in committed]


def read_records(ref: StoreRef) -> dict[int, PartRecord]:
    """The committed part of each shard, also of a store that is not sealed yet."""
    files = open_files(ref.uri)
    records = (read_record(files, f"commits/{name}") for name in files.list("commits"))
    return {record.shard: record for record in records}


def read_rejected(ref: StoreRef) -> list[Reject]:
    """The rows without data of a sealed store. Raises CorruptFile if their table was changed."""
    sealed = FileRecord(**read_complete(ref)["files"][REJECTED])
    data = read_checked(open_files(ref.uri), REJECTED, sealed)
    # Read in this thread: one of Arrow's that still held the bytes when Python ends would abort it
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        table = file.read(use_threads=False)
    return [Reject(**reject) for reject in table.to_pylist()]


# Write


def write_part(
    ref: StoreRef,
    shard: int,
    arrays: Mapping[str, Array],
    rejects: Sequence[Reject],
    seconds: float,
) -> PartRecord:
    """Writes all arrays of one shard and reads a chunk of each back; invisible until `commit`.

    arrays: by the specs' names, each (clips of the shard, *shape). A rejected row is stored as the
    spec's fill. Raises DiskFull, after deleting the unfinished part.
    """
    manifest = read_manifest(ref)
    rows = shard_rows(manifest, shard)
    _check_arrays(ref, manifest, rows, arrays)
    _check_rejects(ref, rows, rejects)
    record = PartRecord(
        shard=shard,
        attempt=uuid.uuid4().hex[:12],
        first_row=rows.start,
        n=len(rows),
        made=len(rows) - len(rejects),
        rejects=tuple(rejects),
        files={},
        seconds=seconds,
    )
    files = open_files(ref.uri)
    try:
        written, chunks = _write_files(files, ref, record, manifest, arrays)
        _reopen(files, record, manifest, arrays)
    except BaseException as error:
        files.delete_tree(record.part)
        if isinstance(error, DiskFull):
            n_bytes = sum(np.asarray(array).nbytes for array in arrays.values())
            raise DiskFull(
                f"store {ref}, shard {shard} ({n_bytes / 1e6:.1f} MB uncompressed): {error}"
            ) from error
        raise
    return replace(record, files=written, chunks=chunks)


def _check_arrays(
    ref: StoreRef, manifest: Manifest, rows: range, arrays: Mapping[str, Array]
) -> None:
    if set(arrays) != {spec.name for spec in manifest.specs}:
        raise ValueError(
            f"store {ref}: got arrays {sorted(arrays)}, expected "
            f"{[spec.name for spec in manifest.specs]}"
        )
    for spec in manifest.specs:
        found, shape = arrays[spec.name], (len(rows), *spec.shape)
        if found.shape != shape or found.dtype != np.dtype(spec.dtype):
            raise ValueError(
                f"store {ref}, rows {rows.start} to {rows.stop}: array '{spec.name}' is "
                f"{found.dtype}{list(found.shape)}, expected {spec.dtype}{list(shape)}"
            )


def _check_rejects(ref: StoreRef, rows: range, rejects: Sequence[Reject]) -> None:
    counts = Counter(reject.row for reject in rejects)
    wrong = [row for row, count in counts.items() if count > 1 or row not in rows]
    if wrong:
        raise ValueError(
            f"store {ref}, rows {rows.start} to {rows.stop}: rejected twice or not in this shard: "
            f"{wrong}"
        )


def _write_files(
    files: Files,
    ref: StoreRef,
    record: PartRecord,
    manifest: Manifest,
    arrays: Mapping[str, Array],
) -> tuple[dict[str, FileRecord], dict[str, str]]:
    """Data first, metadata last: an interrupted part is not even a Zarr group."""
    holes = frozenset(reject.row - record.first_row for reject in record.rejects)
    written: dict[str, FileRecord] = {}
    checks: dict[str, bytearray] = {}
    for spec in manifest.specs:
        path = shard_path(spec)
        checks[path] = bytearray()
        encoded = tee_checksums(encode_shard(arrays[spec.name], spec, holes), checks[path])
        written[path] = files.write(f"{record.part}/{path}", encoded)
    attributes = {
        "format": f"{FORMAT_NAME} {FORMAT[0]}.{FORMAT[1]}",
        "version": manifest.version,
        **place_of(ref, record),
        **chunk_attribute(checks),
        "rejected_rows": [reject.row for reject in record.rejects],
        "code": manifest.code,
        "written": _now(),
    }
    for path, data in metadata_files(manifest.specs, record.n, attributes).items():
        written[path] = files.write(f"{record.part}/{path}", [data])
    return written, {path: hashlib.sha256(found).hexdigest() for path, found in checks.items()}


def _reopen(
    files: Files, record: PartRecord, manifest: Manifest, arrays: Mapping[str, Array]
) -> None:
    """Reads the last clip of each array through zarr-python, and compares it."""
    group, last = open_zarr(files, record.part), record.n - 1
    hole = any(reject.row == record.first_row + last for reject in record.rejects)
    for spec in manifest.specs:
        expected = np.full(spec.shape, spec.fill, spec.dtype) if hole else arrays[spec.name][last]
        found = np.asarray(group[spec.name][last])  # type: ignore[index]
        if found.tobytes() != np.ascontiguousarray(expected).tobytes():
            raise CorruptShard(
                f"{files.uri}/{record.part}: array '{spec.name}' reads back differently from what "
                f"was just written (row {record.first_row + last}). The disk or the memory of this "
                "machine is faulty."
            )


def commit(ref: StoreRef, record: PartRecord) -> bool:
    """Makes the part count; False if another attempt at the shard does already.

    For the run's one driver. Raises CorruptShard if a file of the part is missing or too short.
    """
    files = open_files(ref.uri)
    sizes = {info.path: info.size for info in files.walk(record.part)}
    for path, expected in record.files.items():
        name = f"{record.part}/{path}"
        found = sizes.get(name)
        if found != expected.size:
            raise CorruptShard(
                f"{files.uri}/{name} has {found} bytes, {expected.size} were written: not committed"
            )
    if record.made + len(record.rejects) != record.n:
        raise ValueError(
            f"store {ref}, shard {record.shard}: {record.n} clips in, {record.made} made and "
            f"{len(record.rejects)} rejected"
        )
    if files.create(record.commit_path, encode_document(record.to_json())):
        return True
    # A driver that repeats itself, for example after a lost answer, finds its own commit.
    return read_record(files, record.commit_path).attempt == record.attempt


def seal(ref: StoreRef) -> dict[str, Any]:
    """Marks a store of clips as complete; returns its seal. Sealing again changes nothing.

    Raises IncompleteStore if shards are missing.
    """
    if is_complete(ref):
        return read_complete(ref)
    manifest, files = read_manifest(ref), open_files(ref.uri)
    if missing := missing_shards(ref):
        raise IncompleteStore(
            f"store {ref.uri}: {len(missing)} of {manifest.n_shards} shards are missing "
            f"({_some(missing)}); run stage '{ref.stage}' again, it makes only these"
        )
    records = [record for _, record in sorted(read_records(ref).items())]
    rejects = [reject for record in records for reject in record.rejects]
    rejected = files.write(REJECTED, [rejected_table(rejects)])
    content = {
        "stage": ref.stage,
        "key": ref.key,
        **counts_of(manifest, records),
        "seconds": sum(record.seconds for record in records),
        "digest": digest(manifest, records),
        "files": {REJECTED: asdict(rejected)},
        "parts": [replace(record, rejects=()).to_json() for record in records],
        "manifest": manifest_digest(ref),
        "sealed": _now(),
        "writer": uuid.uuid4().hex,
    }
    files.create(COMPLETE, encode_document(content))
    return read_complete(ref)


def counts_of(manifest: Manifest, records: Sequence[PartRecord]) -> dict[str, Any]:
    """What a seal counts."""
    rejects = [reject for record in records for reject in record.rejects]
    return {
        "n_clips": manifest.n_clips,
        "made": sum(record.made for record in records),
        "rejected": len(rejects),
        "reasons": dict(Counter(reject.reason for reject in rejects)),
        "n_bytes": sum(record.n_bytes for record in records),
    }


def digest(manifest: Manifest, records: Sequence[PartRecord]) -> str:
    """SHA-256 over the sizes and checksums of all shard files: equal data has an equal digest."""
    lines = []
    for record in records:
        for path in map(shard_path, manifest.specs):
            file, chunks = record.files[path], record.chunks.get(path, "")
            lines.append(f"{record.shard} {path} {file.size} {file.crc32c} {chunks}".rstrip())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def manifest_digest(ref: StoreRef) -> str:
    """SHA-256 of the manifest's content, which a seal holds."""
    return document_digest(read_document(open_files(ref.uri), MANIFEST))


def retract(ref: StoreRef, shard: int) -> None:
    """Withdraws a damaged shard: the store is incomplete again, and a run remakes the shard."""
    files = open_files(ref.uri)
    files.delete(COMPLETE)
    files.delete(commit_path(shard))


def rejected_table(rejects: Sequence[Reject]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=REJECTED_SCHEMA)
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _some(shards: Sequence[int], limit: int = 10) -> str:
    return ", ".join(map(str, shards[:limit])) + (", ..." if len(shards) > limit else "")


def _plain(value: Any) -> Any:
    """As read from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))
