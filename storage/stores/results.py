"""Results: files that a stage writes (index, checkpoint, tables, pictures) and a few numbers.

    <store>/work/            unpublished files; kept after a kill, so that the next attempt resumes
    <store>/files/           the published files
    <store>/complete.json    lists them with size and SHA-256; without it there is no result

For an object store, the working folder and the fetched files are in a cache folder on this machine:
ROBOSCAPE_CACHE, or ~/.cache/roboscape. Each writer publishes to a folder of its own, which the seal
names: two machines that make the same result do not know of each other, and the later one must not
change what is sealed.
"""

import fcntl
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from storage.atomic import naming_disk_full, sync, sync_tree
from storage.cache import cache_home
from storage.errors import CorruptFile, StoreConflict, StoreError
from storage.files import Files, LocalFiles, open_files, sha256_file
from storage.stores.records import StoreRef, cache_folder, encode_document
from storage.stores.store import (
    COMPLETE,
    is_complete,
    manifest_digest,
    read_complete,
    read_manifest,
)

WORK, FILES, LOCK = "work", "files", "work.lock"
CHUNK = 4 << 20


class ResultWriter:
    """A stage writes its files to `path`, a local folder that is kept until the result is complete.

    Holds a lock on the folder, which the operating system releases however the process ends.
    """

    def __init__(self, ref: StoreRef):
        local = open_files(ref.uri).local("")
        home = local or cache_folder(ref)
        home.mkdir(parents=True, exist_ok=True)
        self.ref, self.path = ref, home / WORK
        self._lock: int | None = _lock(home / LOCK, ref)
        try:
            self._begin(home, may_be_published=local is not None)
        except BaseException:
            self.close()
            raise

    def _begin(self, home: Path, may_be_published: bool) -> None:
        if is_complete(self.ref):
            raise StoreConflict(
                f"result {self.ref.uri} is complete already: `roboscape delete {self.ref}`, or "
                "--force of the run, to make it again"
            )
        if may_be_published and (home / FILES).is_dir():
            # Killed between publishing and the seal: resume from there.
            os.replace(home / FILES, self.path)
        self.path.mkdir(exist_ok=True)

    def finish(self, numbers: dict[str, float]) -> None:
        """Publishes every file under `path` and seals the result.

        numbers: what its report shows; all finite.
        """
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"result {self.ref}: the number '{name}' is {value}; expected a finite one, or "
                    "none if it was not measured"
                )
        files, writer = open_files(self.ref.uri), uuid.uuid4().hex
        digests = {
            name: {"size": size, "sha256": sha256_file(self.path / name)}
            for name, size in self._names()
        }
        if isinstance(files, LocalFiles):
            folder = FILES
            sync_tree(self.path)
            os.replace(self.path, self.path.with_name(folder))
            sync(self.path.parent)
        else:
            folder = f"{FILES}-{writer[:12]}"
            for name in digests:
                files.write(f"{folder}/{name}", _chunks(self.path / name))
        seal = {
            "stage": self.ref.stage,
            "key": self.ref.key,
            "folder": folder,
            "files": digests,
            "numbers": {name: float(value) for name, value in numbers.items()},
            "manifest": manifest_digest(self.ref),
        }
        stamp = {"sealed": datetime.now(UTC).isoformat(timespec="seconds"), "writer": writer}
        if not files.create(COMPLETE, encode_document(seal | stamp)):
            raise StoreConflict(f"result {self.ref.uri} was completed by another process meanwhile")
        shutil.rmtree(self.path, ignore_errors=True)  # the cache's copy, for an object store
        self.close()

    def _names(self) -> list[tuple[str, int]]:
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        return [(path.relative_to(self.path).as_posix(), path.stat().st_size) for path in found]

    def close(self) -> None:
        """Releases the lock. The next attempt finds what was written."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}  # the process that opened it keeps the lock


@dataclass(frozen=True)
class Result:
    """A complete result. Each file's SHA-256 is checked when it is first asked for."""

    ref: StoreRef

    @cached_property
    def seal(self) -> dict[str, Any]:
        return read_complete(self.ref)

    @property
    def numbers(self) -> dict[str, float]:
        return self.seal["numbers"]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """name -> {size, sha256}."""
        return self.seal["files"]

    @property
    def folder(self) -> str:
        """The folder of the files in the store."""
        return self.seal.get("folder", FILES)

    @cached_property
    def path(self) -> Path:
        """The folder of the files on this machine, after fetching all from an object store."""
        store = open_files(self.ref.uri)
        if local := store.local(self.folder):
            return local
        for name in self.files:
            self._fetch(store, name)
        return cache_folder(self.ref) / FILES

    @cached_property
    def _checked(self) -> set[str]:
        return set()

    def file(self, name: str) -> Path:
        """The file on this machine. Raises CorruptFile if it was changed since it was published."""
        if name not in self.files:
            raise FileNotFoundError(
                f"result {self.ref.uri} has no file '{name}'; it has {sorted(self.files)}"
            )
        store = open_files(self.ref.uri)
        path = store.local(f"{self.folder}/{name}") or self._fetch(store, name)
        if name not in self._checked:
            require_sha256(path, self.files[name]["sha256"], f"result {self.ref}")
            self._checked.add(name)
        return path

    def _fetch(self, store: Files, name: str) -> Path:
        path = cache_folder(self.ref) / FILES / name
        if not path.exists() or sha256_file(path) != self.files[name]["sha256"]:
            LocalFiles(str(path.parent)).write(path.name, [store.read(f"{self.folder}/{name}")])
        return path


def places_of(ref: StoreRef) -> tuple[Path, Path]:
    """The folders of this machine that are written to while the store is made."""
    return open_files(ref.uri).local("") or cache_folder(ref), cache_home()


def open_result(ref: StoreRef) -> Result:
    """A complete result. Raises IncompleteStore, or FileNotFoundError if there is none."""
    if read_manifest(ref).kind == "clips":
        raise StoreError(f"store {ref.uri} holds rows of clips, not a result: use `open_rows`")
    result = Result(ref)
    assert result.seal, ref
    return result


def open_writer(ref: StoreRef) -> ResultWriter:
    """The working folder of an incomplete result, whose store must have been created.

    Raises StoreConflict if it is complete, or if another process of this machine is making it.
    """
    if read_manifest(ref).kind == "clips":
        raise StoreError(f"store {ref.uri} holds rows of clips, not a result: use `write_part`")
    return ResultWriter(ref)


def require_sha256(path: Path, expected: str, owner: str) -> None:
    found = sha256_file(path) if path.exists() else "missing"
    if found != expected:
        raise CorruptFile(
            f"{owner}: the SHA-256 of {path} is {found}, expected {expected}. The file was changed "
            "after it was published: restore it from a backup, or let `roboscape repair` make it "
            "again."
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _lock(path: Path, ref: StoreRef) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 256, 0).decode() or "unknown"
        os.close(fd)
        raise StoreConflict(
            f"result {ref.uri} is being made by another process ({holder}): wait for it, or stop it"
        ) from error
    try:
        with naming_disk_full(path):
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} on {os.uname().nodename}".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
