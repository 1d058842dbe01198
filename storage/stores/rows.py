"""Reads stores by row: arrays of clips, or columns of the clip index, through one interface.

Row i is the same clip in every store of one index.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Integer

from storage.errors import IncompleteStore, RejectedRow, StoreError
from storage.files import open_files
from storage.stores.binding import committed_checks
from storage.stores.records import Manifest, PartRecord, Reject, StoreRef
from storage.stores.results import open_result
from storage.stores.shards import Array, MappedShard, Shard, shard_path
from storage.stores.spec import ArraySpec
from storage.stores.store import (
    is_complete,
    read_complete,
    read_manifest,
    read_records,
    read_rejected,
)

# For each `Rows`: a memory map holds a file descriptor, of which a process often has only 1024.
# Mapping a shard again costs several times as much as reading a clip of tokens from it.
MAX_OPEN_SHARDS = max(64, min(getrlimit(RLIMIT_NOFILE)[0] // 8, 4096))
INDEX_FILE = "index.parquet"


class Rows(ABC):
    """Lazy reads of one store. May be sent to another process, which opens the files itself."""

    def __init__(self, ref: StoreRef, *, partial: bool = False):
        self.ref, self.partial = ref, partial

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.ref, self.partial)

    @property
    @abstractmethod
    def n(self) -> int: ...

    @property
    @abstractmethod
    def specs(self) -> dict[str, ArraySpec]: ...

    @property
    @abstractmethod
    def clip_ids(self) -> Sequence[str]: ...

    @property
    @abstractmethod
    def ok(self) -> Bool[np.ndarray, " n"]:
        """Which rows have data."""

    @property
    @abstractmethod
    def rejected(self) -> list[Reject]: ...

    @abstractmethod
    def gather(self, name: str, rows: Integer[np.ndarray, " b"]) -> Array:
        """Array `name` of these rows, in this order: (b, *shape), a new array."""

    @abstractmethod
    def close(self) -> None: ...

    def read(self, names: Sequence[str], row: int) -> dict[str, Array]:
        """The named arrays of one row. Raises RejectedRow if the row has no data."""
        at = np.array([row])
        return {name: self.gather(name, at)[0, ...] for name in names}  # a scalar stays an array

    def why_rejected(self, row: int) -> str:
        """Reason and detail of a row without data."""
        reject = next((r for r in self.rejected if r.row == row), None)
        return "its shard is missing" if reject is None else f"{reject.reason}: {reject.detail}"

    def spec(self, name: str) -> ArraySpec:
        if name not in self.specs:
            raise KeyError(f"store {self.ref} has no array '{name}'; it has {sorted(self.specs)}")
        return self.specs[name]

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ref}, n={self.n}, arrays={sorted(self.specs)})"


class ClipRows(Rows):
    """A store of clips. Raw arrays on a local disk are memory-mapped, others decoded clip by clip.

    A chunk that was changed raises CorruptShard; a row without data raises RejectedRow.
    """

    def __init__(self, ref: StoreRef, *, partial: bool = False):
        super().__init__(ref, partial=partial)
        self._shard = lru_cache(MAX_OPEN_SHARDS)(self._open_shard)
        self._checks = lru_cache(MAX_OPEN_SHARDS)(self._read_checks)
        self._checked: dict[tuple[str, int], bytearray] = {}

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.ref)

    @cached_property
    def records(self) -> dict[int, PartRecord]:
        """By shard; all of them, unless the store is opened as `partial`."""
        if self.partial and not is_complete(self.ref):
            return read_records(self.ref)
        return {
            part["shard"]: PartRecord.from_json(part) for part in read_complete(self.ref)["parts"]
        }

    @property
    def n(self) -> int:
        assert self.manifest.n_clips is not None
        return self.manifest.n_clips

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        return {spec.name: spec for spec in self.manifest.specs}

    @property
    def rate_hz(self) -> float:
        """Frames per second of its clips. Raises StoreError if the manifest names none."""
        rate = self.manifest.parameters.get("rate_hz")
        if rate is None:
            raise StoreError(
                f"store {self.ref} has no 'rate_hz' in the parameters of its manifest; expected "
                "the frame rate, as the stage 'clip' writes it"
            )
        return float(rate)

    @cached_property
    def index(self) -> Rows:
        """The index store, which is under this store's own root."""
        if self.manifest.index_uri is None:
            raise StoreError(
                f"store {self.ref.uri} has no index store: it was created without `index_uri`"
            )
        return open_rows(StoreRef.under(self.ref.root, self.manifest.index_uri))

    @property
    def clip_ids(self) -> Sequence[str]:
        return self.index.clip_ids

    @cached_property
    def rejected(self) -> list[Reject]:
        if self.partial and not is_complete(self.ref):
            records = (record for _, record in sorted(self.records.items()))
            return [reject for record in records for reject in record.rejects]
        return read_rejected(self.ref)

    @cached_property
    def ok(self) -> Bool[np.ndarray, " n"]:
        ok = np.zeros(self.n, dtype=bool)
        for record in self.records.values():
            ok[record.first_row : record.first_row + record.n] = True
        ok[[reject.row for reject in self.rejected]] = False
        return ok

    def gather(self, name: str, rows: Integer[np.ndarray, " b"]) -> Array:
        spec = self.spec(name)
        self._require(rows)
        out = np.empty((len(rows), *spec.shape), spec.dtype)
        step, open_shard = self.manifest.clips_per_shard or 1, self._shard
        for i, row in enumerate(rows.tolist()):
            shard, at = divmod(row, step)
            open_shard(name, shard).read(at, out[i : i + 1])
        return out

    def _require(self, rows: Integer[np.ndarray, " b"]) -> None:
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n):
            raise IndexError(
                f"store {self.ref} has {self.n} rows, asked for {rows.min()} to {rows.max()}"
            )
        if self.ok[rows].all():
            return
        row = int(rows[~self.ok[rows]][0])
        why = next(
            (f"{r.kind}, {r.reason}: {r.detail}" for r in self.rejected if r.row == row),
            "its shard is missing",
        )
        raise RejectedRow(
            f"store {self.ref} has no data in row {row}: {why}. Check `ok` before reading."
        )

    def _open_shard(self, name: str, shard: int) -> Shard | MappedShard:
        spec, record, files = self.specs[name], self.records[shard], open_files(self.ref.uri)
        path = shard_path(spec)
        size, checks = record.files[path].size, self._checks(shard).get(path)
        where = f"{record.part}/{path}"
        opened = Shard(files, where, spec, record.n, size, record.first_row, checks)
        if files.local("") is None or not opened.is_strided:
            return opened
        return MappedShard(opened, self._checked.setdefault((name, shard), bytearray(record.n)))

    def _read_checks(self, shard: int) -> dict[str, bytes]:
        return committed_checks(open_files(self.ref.uri), self.ref, self.records[shard])

    def close(self) -> None:
        self._shard.cache_clear()


class IndexRows(Rows):
    """The clip index: each column of its table as an array; scalars 0-d, strings, lists 1-d.

    Lists differ in length, so `gather` returns an array of arrays for them.
    """

    @cached_property
    def table(self) -> pa.Table:
        return pq.read_table(open_result(self.ref).file(INDEX_FILE))

    @property
    def n(self) -> int:
        return self.table.num_rows

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        return {field.name: _column_spec(field) for field in self.table.schema}

    @cached_property
    def clip_ids(self) -> Sequence[str]:
        return self.table["clip_id"].to_pylist()

    @cached_property
    def ok(self) -> Bool[np.ndarray, " n"]:
        return np.ones(self.n, dtype=bool)

    @property
    def rejected(self) -> list[Reject]:
        return []

    def gather(self, name: str, rows: Integer[np.ndarray, " b"]) -> Array:
        spec = self.spec(name)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n):
            raise IndexError(
                f"store {self.ref} has {self.n} rows, asked for {rows.min()} to {rows.max()}"
            )
        values = self.table[name].take(pa.array(rows)).to_pylist()
        for row, value in zip(rows, values, strict=True):
            if value is None or (spec.axes and None in value):
                raise StoreError(
                    f"store {self.ref}, row {row}: column '{name}' has {value}; expected no nulls"
                )
        if not spec.axes:
            return np.array(values, dtype=spec.dtype)
        lists = np.empty(len(values), dtype=object)
        lists[:] = [np.array(value, dtype=spec.dtype) for value in values]
        return lists

    def read(self, names: Sequence[str], row: int) -> dict[str, Array]:
        return {name: np.asarray(self.gather(name, np.array([row]))[0]) for name in names}

    def close(self) -> None:
        vars(self).pop("table", None)


def open_rows(ref: StoreRef, *, partial: bool = False) -> Rows:
    """Opens a complete store of clips or of the clip index.

    partial: an incomplete store will do; rows that are not made yet have `ok` False.
    Raises IncompleteStore if the store is not complete, FileNotFoundError if there is none.
    """
    manifest = read_manifest(ref)
    if manifest.kind == "result":
        raise StoreError(f"store {ref.uri} is a result, not rows of clips: use `open_result`")
    if not (partial and manifest.kind == "clips") and not is_complete(ref):
        raise IncompleteStore(
            f"store {ref.uri} is not complete: run its stage ('{ref.stage}') first"
        )
    return (IndexRows if manifest.kind == "index" else ClipRows)(ref, partial=partial)


def find_row(rows: Rows, clip: str) -> int:
    """The row of this number or clip id. Raises LookupError if there is none."""
    if clip.isdigit() and int(clip) < rows.n:
        return int(clip)
    if clip in rows.clip_ids:
        return list(rows.clip_ids).index(clip)
    raise LookupError(
        f"no clip '{clip}' in {rows.ref}: expected a row below {rows.n} or a clip id such as "
        f"{rows.clip_ids[0]}"
    )


def _reopen(kind: type[Rows], ref: StoreRef, partial: bool) -> Rows:
    return kind(ref, partial=partial)


def _column_spec(field: pa.Field) -> ArraySpec:
    """Lists differ in length from row to row: shape (-1,)."""
    is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    value = field.type.value_type if is_list or pa.types.is_dictionary(field.type) else field.type
    is_text = pa.types.is_string(value) or pa.types.is_large_string(value)
    dtype = "str" if is_text else np.dtype(value.to_pandas_dtype()).name
    axes, shape = (("i",), (-1,)) if is_list else ((), ())
    return ArraySpec(field.name, dtype, axes, shape, "", "a column of the clip index", codec="raw")
