"""Files on a local disk or in an object store, behind one small interface.

The commit protocol of the stores rests on two guarantees: `write` writes the whole file or nothing,
and `create` gives a name to exactly one of many writers. Paths are relative to the root that was
opened, with `/` as separator.
"""

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import crc32c
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from storage.atomic import TEMP_MARK, replacing, sync, temporary
from storage.errors import CorruptFile, StorageUnavailable, StoreError

Buffer = bytes | bytearray | memoryview
UPLOAD_CHUNK = 16 << 20  # bytes per request to an object store, or more


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and crc32c of a file as it was written."""

    size: int
    crc32c: int


@dataclass(frozen=True)
class FileInfo:
    path: str
    size: int
    modified: float  # seconds since 1970


class Files(ABC):
    """All files under one root. A missing file raises FileNotFoundError, whatever the storage."""

    uri: str

    @abstractmethod
    def read(self, path: str) -> bytes: ...

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer where the file ends."""

    @abstractmethod
    def size(self, path: str) -> int: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Sorted names of the files and folders directly in `folder`; empty if it is missing."""

    @abstractmethod
    def walk(self, folder: str) -> Iterator[FileInfo]:
        """Every file under `folder`, unfinished ones too."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes the whole file if the name is free; returns False, and changes nothing, if not."""

    @abstractmethod
    def write(self, path: str, chunks: Iterable[Buffer]) -> FileRecord:
        """Writes the whole file or none, durably, replacing any of that name. Raises DiskFull."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Deletes one file, if it exists."""

    @abstractmethod
    def delete_tree(self, folder: str) -> None: ...

    @abstractmethod
    def local(self, path: str) -> Path | None:
        """The file's place on this machine's disk; None in an object store."""

    def exists(self, path: str) -> bool:
        try:
            self.size(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


class LocalFiles(Files):
    """A folder. Files are written under a temporary name, flushed, then renamed or linked."""

    def __init__(self, root: str):
        self.root = Path(root)
        self.uri = str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        fd = os.open(self.root / path, os.O_RDONLY)
        try:
            return os.pread(fd, length, start)
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.root / folder) if TEMP_MARK not in name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self, folder: str) -> Iterator[FileInfo]:
        for top, _, names in os.walk(self.root / folder):
            for name in names:
                path = Path(top, name)
                try:
                    stat = path.stat()
                except FileNotFoundError:  # a temporary file that was renamed meanwhile
                    continue
                yield FileInfo(path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime)

    def create(self, path: str, data: bytes) -> bool:
        target = self.root / path
        with temporary(target) as temp:
            _write(temp, [data])
            sync(temp)
            try:
                os.link(temp, target)
            except FileExistsError:
                # NFS may report a link that succeeded as failed: then the file has two names.
                if os.stat(temp).st_nlink != 2:
                    return False
            sync(target.parent)
        return True

    def write(self, path: str, chunks: Iterable[Buffer]) -> FileRecord:
        with replacing(self.root / path) as temp:
            return _write(temp, chunks)

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def delete_tree(self, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=False, onerror=_unless_missing)

    def local(self, path: str) -> Path | None:
        return self.root / path


class ObjectFiles(Files):
    """A prefix of an object store (`s3://bucket/prefix`), with atomic and exclusive PUT."""

    def __init__(self, uri: str, store: Any, prefix: str):
        self.uri, self.store, self.prefix = uri, store, prefix.strip("/")

    def key(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, path.strip("/"))))

    def read(self, path: str) -> bytes:
        with reached(self.uri):
            return bytes(obstore.get(self.store, self.key(path)).bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with reached(self.uri):
            try:
                return bytes(
                    obstore.get_range(self.store, self.key(path), start=start, length=length)
                )
            except BaseError:
                if self.size(path) <= start:  # as a local file has no bytes there
                    return b""
                raise

    def size(self, path: str) -> int:
        with reached(self.uri):
            return obstore.head(self.store, self.key(path))["size"]

    def list(self, folder: str) -> list[str]:
        with reached(self.uri):
            listed = obstore.list_with_delimiter(self.store, self.key(folder))
        paths = [*listed["common_prefixes"], *(o["path"] for o in listed["objects"])]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def walk(self, folder: str) -> Iterator[FileInfo]:
        skip = len(self.prefix) + 1 if self.prefix else 0
        batches = iter(obstore.list(self.store, self.key(folder)))
        while True:
            with reached(self.uri):
                batch = next(batches, None)
            if batch is None:
                return
            for found in batch:
                yield FileInfo(
                    found["path"][skip:], found["size"], found["last_modified"].timestamp()
                )

    def create(self, path: str, data: bytes) -> bool:
        try:
            with reached(self.uri):
                obstore.put(self.store, self.key(path), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # A request that is repeated after a lost answer finds its own object. What we create
            # contains an id of its writer, so equal bytes mean that this happened.
            return self.read(path) == data
        return True

    def write(self, path: str, chunks: Iterable[Buffer]) -> FileRecord:
        size, crc = 0, 0

        def counted() -> Iterator[bytes]:
            nonlocal size, crc
            for chunk in chunks:
                size, crc = size + memoryview(chunk).nbytes, crc32c.crc32c(chunk, crc)
                yield bytes(chunk)

        parts = joined(counted(), UPLOAD_CHUNK)
        first, second = next(parts), next(parts, None)
        with reached(self.uri):
            if second is None:  # one request; an upload in parts takes at least three
                obstore.put(self.store, self.key(path), first, use_multipart=False)
            else:
                obstore.put(self.store, self.key(path), chain((first, second), parts))
        return FileRecord(size, crc)

    def delete(self, path: str) -> None:
        if self.exists(path):  # not every store allows to delete what is missing
            with reached(self.uri):
                obstore.delete(self.store, self.key(path))

    def delete_tree(self, folder: str) -> None:
        paths = [self.key(info.path) for info in self.walk(folder)]
        if paths:
            with reached(self.uri):
                obstore.delete(self.store, paths)

    def local(self, path: str) -> Path | None:
        return None


@lru_cache
def _object_store(scheme: str, bucket: str, process: int) -> Any:
    """One client per bucket and process: a client does not survive a fork."""
    if scheme == "memory":
        return obstore.store.MemoryStore()
    return obstore.store.from_url(f"s3://{bucket}")


@contextmanager
def reached(uri: str) -> Iterator[None]:
    """Turns what the object store's client raises into StorageUnavailable, in one line.

    That a file is missing, or exists already, stays what it is.
    """
    try:
        yield
    except (AlreadyExistsError, FileNotFoundError, StoreError):
        raise
    except BaseError as error:
        said = " ".join(str(error).partition("\n\n")[0].split())[:300]
        raise StorageUnavailable(
            f"{uri}: the object store does not answer, or refuses: {type(error).__name__}: {said}. "
            "Expected a bucket that the credentials may use: check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other stores than Amazon's, AWS_ENDPOINT; "
            "then run the same command again"
        ) from error


def open_files(uri: str) -> Files:
    """The files under a local path or `s3://bucket/prefix`.

    Credentials, region and endpoint of S3 are those of the AWS_* variables. `memory://name/prefix`
    is for tests and lives as long as this process.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        return LocalFiles(uri)
    bucket, _, prefix = rest.partition("/")
    if scheme not in ("memory", "s3"):
        raise ValueError(
            f"'{uri}': expected a local folder or s3://bucket/prefix, found '{scheme}://'"
        )
    if not bucket:
        raise ValueError(f"'{uri}': it names no bucket, expected {scheme}://bucket/prefix")
    with reached(uri):
        return ObjectFiles(uri, _object_store(scheme, bucket, os.getpid()), prefix)


def read_checked(files: Files, path: str, expected: FileRecord) -> bytes:
    """All bytes of a file. Raises CorruptFile if they changed since they were written."""
    data = files.read(path)
    found = FileRecord(len(data), crc32c.crc32c(data))
    if found != expected:
        raise CorruptFile(
            f"{files.uri}/{path} was changed after it was written: found {found}, "
            f"expected {expected}"
        )
    return data


def joined(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in chunks of at least `size` (object stores are slow with small ones)."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) >= size:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _write(path: Path, chunks: Iterable[Buffer]) -> FileRecord:
    size, crc = 0, 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            size, crc = size + len(view), crc32c.crc32c(view, crc)
            while len(view):
                view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    return FileRecord(size, crc)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unless_missing(function: Callable[..., Any], path: str | Path, info: Any) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
