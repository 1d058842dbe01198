"""What is in files, as digests: computed once, remembered by path, size, times and inode.

Small files, and all that hold numbers or text, are digested whole. Of a larger one (a video) it is
the size, the container's index and blocks spread over the file: an MP4's index holds the size of
every frame, so another encoding of the same length shows. A tar counts by its members.

Digests are kept in this machine's cache folder (ROBOSCAPE_CACHE, or ~/.cache/roboscape).
"""

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path

from storage.cache import cache_home
from storage.disk_space import as_disk_full, disk_full, space_at
from storage.sources import tars
from storage.sources.file_ref import FileRef, SourceError
from storage.sources.file_state import FileState

WHOLE_BYTES = 1 << 20  # files up to this size are digested whole
ALWAYS_WHOLE = (".h5", ".hdf5", ".json", ".jsonl", ".parquet", ".csv", ".toml")
N_BLOCKS, BLOCK_BYTES = 32, 1 << 15  # of a larger file
MAX_INDEX_BYTES = 64 << 20  # of a container's index; a damaged one may claim any size
CHUNK_BYTES = 1 << 20
THREADS = 8
ASKED_AT_ONCE = 500  # files

OnProgress = Callable[[int, int], None]  # files done, total


def file_digests(
    paths: Sequence[Path], on_progress: OnProgress = lambda done, total: None
) -> list[str]:
    """The digest of each file's contents, 32 hex digits; a file that cannot be read has its error.

    Files that have not changed since they were digested are not opened.
    """
    digests: list[str] = []
    on_progress(0, len(paths))
    with ThreadPoolExecutor(THREADS) as threads, closing(_Remembered()) as remembered:
        for start in range(0, len(paths), ASKED_AT_ONCE):
            chosen = paths[start : start + ASKED_AT_ONCE]
            now = time.time()
            states = list(threads.map(_state, chosen, chunksize=100))
            known = remembered.find(states)
            unknown = [path for path, old in zip(chosen, known, strict=True) if old is None]
            read = threads.map(lambda path: contents_digest(FileRef(path=path)), unknown)
            found = [old or next(read) for old in known]
            remembered.add(
                (state, digest)
                for state, old, digest in zip(states, known, found, strict=True)
                if old is None and state is not None and state.settled(now)
            )
            digests += found
            on_progress(len(digests), len(paths))
    return digests


def contents_digest(file: FileRef) -> str:
    """32 hex digits that other contents change, or "unreadable: ..." with the reason."""
    try:
        if file.path.suffix == ".tar" and not file.member:
            return _tar_digest(file.path)
        with file.open() as opened:
            return _digest(_parts(opened, file.member or file.path.name)).hex()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    except SourceError as error:
        return f"unreadable: {error.found}"


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(path)
    except OSError:
        return None


def _digest(parts: Iterable[bytes]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.digest()


def _tar_digest(path: Path) -> str:
    """Of its members' names and contents, or of the file itself if it is no whole tar."""
    try:
        members = tars.members(path)
    except SourceError:
        with path.open("rb") as opened:
            return _digest(_parts(opened, path.name)).hex()
    lines = (f"{name}\t{contents_digest(member)}\n".encode() for name, member in members.items())
    return _digest(lines).hex()


def _parts(file: BufferedReader, name: str) -> Iterator[bytes]:
    """The bytes that count, the size first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    yield size.to_bytes(8, "little")
    if size <= WHOLE_BYTES or name.lower().endswith(ALWAYS_WHOLE):
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
        return
    for i in range(N_BLOCKS):
        file.seek((size - BLOCK_BYTES) * i // (N_BLOCKS - 1))
        yield file.read(BLOCK_BYTES)
    yield from _container_index(file, size)


def _container_index(file: BufferedReader, size: int) -> Iterator[bytes]:
    """The `moov` box of an MP4 (ISO/IEC 14496-12): sizes, times and places of all its frames."""
    at = 0
    while at + 16 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:  # a 64-bit length follows
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end; less: no MP4
            length = size - at
        if kind == b"moov":
            file.seek(at)
            yield file.read(min(length, MAX_INDEX_BYTES))
            return
        at += length


class _Remembered:
    """Digests by the state of their file, in a small database that processes share.

    A database that cannot be used (read-only home, full disk, damage) remembers nothing; of a full
    disk there is a warning, since the next run will be slow again.
    """

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        with self._forgiving():
            cache_home().mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(cache_home() / "contents.sqlite", timeout=30)
            self.connection.execute(
                "create table if not exists contents "
                "(path text primary key, size int, mtime int, ctime int, inode int, digest text)"
            )

    def find(self, states: Sequence[FileState | None]) -> list[str | None]:
        """The digest of each file that has not changed since."""
        found: list[str | None] = [None] * len(states)
        with self._forgiving():
            for i, state in enumerate(states):
                if self.connection is None or state is None:
                    continue
                row = self.connection.execute(
                    "select * from contents where path = ?", (state.path,)
                ).fetchone()
                if row and FileState(*row[:-1]) == state:
                    found[i] = row[-1]
        return found

    def add(self, digests: Iterable[tuple[FileState, str]]) -> None:
        if self.connection is None:
            return
        with self._forgiving():
            rows = [(*vars(state).values(), digest) for state, digest in digests]
            self.connection.executemany(
                "insert or replace into contents values (?, ?, ?, ?, ?, ?)", rows
            )
            self.connection.commit()

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, UnicodeError) as error:
            if as_disk_full(error) or space_at(cache_home()).exhausted:
                full = disk_full(cache_home() / "contents.sqlite", str(error))
                warnings.warn(f"digests of files are not remembered: {full}", stacklevel=3)
            self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
