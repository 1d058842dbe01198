"""Reads the hub's uncompressed tars in place, by an index of every member's offset and size.

The index costs a seek per member (a 48 GB tar has some 200,000), so those of large tars are kept
as Parquet in this machine's cache folder (ROBOSCAPE_CACHE, or ~/.cache/roboscape), for the tar as
it is: a changed one is indexed again.
"""

import hashlib
import tarfile
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import replacing
from storage.cache import cache_home
from storage.errors import DiskFull
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.file_state import FileState

MAX_UNUSABLE = 100  # rows of one tar
UNUSABLE = (-1, 0)
KEPT_FROM = 2_000  # members; each process indexes a smaller tar itself
# First bytes of gzip, bzip2, xz and zstd
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])


def members(path: Path, prefix: str = "") -> dict[str, FileRef]:
    """The files in the tar by name (without a leading `./`), if it begins with `prefix`; a hard
    link is the file that it is linked to.

    Raises SourceError: `compressed_tar`, or `truncated_tar` if the file ends before its last member
    (its first members are not used either: the download has to be finished).
    """
    table = _index(path, FileState.of(path))
    table = table.filter(pc.greater_equal(table["offset"], 0))  # type: ignore[attr-defined]
    if prefix:
        table = table.filter(pc.starts_with(table["name"], prefix))  # type: ignore[attr-defined]
    names, offsets, sizes = (table[column].to_pylist() for column in _SCHEMA.names)
    return {
        name: FileRef(path=path, member=name, offset=offset, size=size)
        for name, offset, size in zip(names, offsets, sizes, strict=True)
    }


def unusable(path: Path) -> list[SourceError]:
    """The members that are there and cannot be read in place: links and sparse files."""
    table = _index(path, FileState.of(path))
    table = table.filter(pc.less(table["offset"], 0))  # type: ignore[attr-defined]
    expected = "a plain file (extract the tar)"
    return [
        SourceError("unreadable_file", f"{path}!{name}", "a link or a sparse file", expected)
        for name in table["name"].to_pylist()[:MAX_UNUSABLE]
    ]


@lru_cache(maxsize=4)  # a stage reads many episodes of one tar before the next tar
def _index(path: Path, state: FileState) -> pa.Table:
    key = hashlib.sha256(f"2 {state!r}".encode()).hexdigest()[:24]  # 2: of the index's format
    kept = cache_home() / "tars" / f"{key}.parquet"
    if kept.exists():
        return pq.read_table(kept)
    table = _scan(path, state.size)
    if len(table) >= KEPT_FROM:
        _keep(kept, table)
    return table


def _keep(kept: Path, table: pa.Table) -> None:
    """Writes the index to the cache, if that can be written: it saves time, and nothing else."""
    try:
        with replacing(kept) as temp:
            pq.write_table(table, temp, compression="zstd")
    except (DiskFull, OSError) as error:
        warnings.warn(f"the index of a tar is not kept for the next time: {error}", stacklevel=2)


def _scan(path: Path, n_bytes: int) -> pa.Table:
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                if not info.isdir():
                    names.append(info.name.removeprefix("./"))
                    spans.append(_span(info, names, spans))
                # tarfile would keep an object for each member
                tar.members = []  # type: ignore[attr-defined]
    except tarfile.ReadError as error:
        raise _unreadable(path, n_bytes, error) from error
    offsets, sizes = np.array(spans, "int64").reshape(-1, 2).T
    end = int((offsets + sizes).max(initial=0))
    if end > n_bytes or not _ends_with_zeros(path, n_bytes):
        raise SourceError(
            "truncated_tar", path, f"{n_bytes} bytes", f"{end} or more (download it again)"
        )
    return pa.table({"name": names, "offset": offsets, "size": sizes}, schema=_SCHEMA)


def _span(info: tarfile.TarInfo, names: list[str], spans: list[tuple[int, int]]) -> tuple[int, int]:
    """(offset, size) of a member's bytes; UNUSABLE if they do not lie in one place in the tar."""
    if info.islnk():
        target = info.linkname.removeprefix("./")
        return spans[names.index(target)] if target in names else UNUSABLE
    if not info.isreg() or info.issparse():
        return UNUSABLE
    return info.offset_data, info.size


def _ends_with_zeros(path: Path, n_bytes: int) -> bool:
    """A complete tar ends with two blocks of 512 zero bytes, one cut between members does not."""
    with path.open("rb") as file:
        file.seek(max(0, n_bytes - 1024))
        return not any(file.read())


def _unreadable(path: Path, n_bytes: int, error: tarfile.ReadError) -> SourceError:
    with path.open("rb") as file:
        if file.read(6).startswith(_COMPRESSED):
            return SourceError(
                "compressed_tar", path, "a compressed tar", "an uncompressed one (decompress it)"
            )
    return SourceError(
        "truncated_tar", path, f"{n_bytes} bytes, {error}", "a whole tar (download it again)"
    )
