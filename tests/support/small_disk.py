"""Disks that are truly full: small file systems in memory, mounted for one test.

Mounting needs root and a kernel that allows it; where it does not, the test is skipped with a word.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"


@contextmanager
def small_disk(folder: Path, *, kilobytes: int = 1024, inodes: int = 1000) -> Iterator[Path]:
    """The folder as a file system of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k,nr_inodes={inodes}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no `mount` here, so no disk can be filled")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, leave: int = 0) -> None:
    """Fills the disk up to so many bytes."""
    path = folder / FILLER
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.truncate(path, max(0, path.stat().st_size - leave))


def use_up_inodes(folder: Path, *, leave: int = 0) -> None:
    """Makes empty files until only so many more can be made."""
    names = folder / "many"
    names.mkdir()
    for i in range(os.statvfs(folder).f_favail - leave):
        (names / str(i)).touch()


def make_room(folder: Path) -> None:
    (folder / FILLER).unlink(missing_ok=True)
    for path in (folder / "many").glob("*"):
        path.unlink()
