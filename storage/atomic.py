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

from storage.errors import DiskFull

TEMP_MARK = ".tmp-"  # in the names of unfinished files


def write_file(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Writes the whole file or, if it fails, keeps the old one. Raises DiskFull.

    Without `flush` it is faster, and a power cut may lose the file.
    """
    with replacing(path, flush=flush) as temp:
        temp.write_bytes(content)


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends without an error."""
    with temporary(path) as temp:
        yield temp
        if flush:
            sync(temp)
        os.replace(temp, path)
        if flush:
            sync(path.parent)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name for a file beside `path`; the file is deleted when the block ends, if still there."""
    temp = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:12]}")
    with explain_disk_full(path):
        make_folder(path.parent)
        try:
            yield temp
        finally:
            temp.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder and its parents, and flushes each new name to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


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


@contextmanager
def explain_disk_full(path: Path) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" while writing at `path` into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        usage = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists()))
        raise DiskFull(
            f"the disk is full ({error.strerror}) while writing {path}: "
            f"{usage.free / 1e6:.1f} of {usage.total / 1e6:.0f} MB are free, less if there is a "
            "quota. What was committed is kept. Free some space (`roboscape gc` lists what no run "
            "needs) and run again."
        ) from error
