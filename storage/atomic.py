"""Local files that are whole or absent, and on the disk when a call returns.

A file is written under a temporary name beside its own, flushed, then renamed.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.disk_space import disk_full, reason_of
from storage.errors import DiskFull

TEMP_MARK = ".tmp-"  # in the names of unfinished files


def write_file(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Writes the whole file or, if it fails, keeps the old one. Raises DiskFull.

    Without `flush` it is faster, and a power cut may lose the file.
    """
    with replacing(path, flush=flush, needed=len(content)) as temp:
        temp.write_bytes(content)


@contextmanager
def replacing(path: Path, *, flush: bool = True, needed: int | None = None) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends without an error.

    needed: bytes that are to be written, where that is known. Raises DiskFull.
    """
    with temporary(path, needed=needed) as temp:
        yield temp
        if flush:
            sync(temp)
        os.replace(temp, path)
        if flush:
            sync(path.parent)


@contextmanager
def temporary(path: Path, *, needed: int | None = None) -> Iterator[Path]:
    """A name for a file beside `path`; the file is deleted when the block ends, if still there."""
    temp = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:12]}")
    try:
        with naming_disk_full(path, needed):  # while the unfinished file still takes its space
            make_folder(path.parent)
            yield temp
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def naming_disk_full(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" while writing at `path` into DiskFull.

    needed: bytes that are to be written, where that is known.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if (reason := reason_of(error)) is None:
            raise
        raise disk_full(path, reason, needed=needed) from error


def make_folder(folder: Path) -> None:
    """Makes the folder and its parents, and flushes each new name to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends without an error.

    Raises FileExistsError if there is something at `path`; an empty folder may be. Raises DiskFull.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            errno.EEXIST, "there is something already, expected a new or an empty folder", str(path)
        )
    temp = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:12]}")
    try:
        with naming_disk_full(path):
            make_folder(path.parent)
            temp.mkdir()
            yield temp
            sync_tree(temp)
            os.replace(temp, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes one file, or the names in one folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Flushes the folder and everything in it to the disk."""
    for top, _, names in os.walk(folder):
        for name in names:
            sync(Path(top, name))
        sync(Path(top))
