"""The files of a data set with the digests of their contents: what its fingerprint is made of."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import replacing
from storage.sources.contents import OnProgress, file_digests

SOURCE_FILES_FILE = "source_files.parquet"  # beside the clip index
NAMED = 3  # of the files of each kind, in `changes`
_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("digest", pa.string())])


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    path: str  # below the data set's root
    size: int
    digest: str  # of `contents_digest`


def digested(
    root: Path,
    listed: Iterable[tuple[str, int]],
    on_progress: OnProgress = lambda done, total: None,
) -> list[SourceFile]:
    """The files, each a path below the root and a size, with their digests."""
    files = list(listed)
    digests = file_digests([root / path for path, _ in files], on_progress)
    return [
        SourceFile(path=path, size=size, digest=digest)
        for (path, size), digest in zip(files, digests, strict=True)
    ]


def fingerprint_of(files: Iterable[SourceFile]) -> str:
    """SHA-256 over the paths and digests. Times do not count: a copy has the same one."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.path}\t{file.digest}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def write_source_files(path: Path, files: Iterable[SourceFile]) -> None:
    rows = [asdict(file) | {"path": _as_text(file.path)} for file in files]
    with replacing(path) as temp:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temp, compression="zstd")


def read_source_files(path: Path) -> list[SourceFile]:
    return [SourceFile(**row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist()]


def changes(old: Iterable[SourceFile], new: Iterable[SourceFile]) -> str:
    """What differs, in words: "2 files changed (a.mp4, b.h5), 1 added (c.h5)". Empty: nothing."""
    before = {_as_text(file.path): file.digest for file in old}
    now = {_as_text(file.path): file.digest for file in new}
    kinds = {
        "changed": [path for path in now if path in before and now[path] != before[path]],
        "added": [path for path in now if path not in before],
        "removed": [path for path in before if path not in now],
    }
    return ", ".join(_described(kinds))


def _described(kinds: dict[str, list[str]]) -> Iterator[str]:
    unit = "files "
    for kind, paths in kinds.items():
        if paths:
            more = ", ..." if len(paths) > NAMED else ""
            count = unit if len(paths) > 1 else unit.replace("files", "file")
            yield f"{len(paths)} {count}{kind} ({', '.join(paths[:NAMED])}{more})"
            unit = ""


def _as_text(path: str) -> str:
    """A path as valid UTF-8: names of files may be any bytes."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
