"""What a file system has left, and in words that it has nothing left.

Libraries report a full disk in many ways: OSError with or without a file's name, errors of their
own that hold the system's text, errors within errors. `as_disk_full` knows them, so that a user
reads the same sentence whoever wrote.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)
TEXTS = (  # of errors that have no number: safetensors, SQLite, Ray, logs of services
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "Local disk is full",
    f"(os error {errno.ENOSPC})",
    f"(os error {errno.EDQUOT})",
)
ALREADY_SAID = "while writing "  # in a DiskFull that came as text from another process
FEW_BYTES = 64 << 10  # a file system with less has none for our files
OVERRIDE = (
    "set ROBOSCAPE_SPACE_CHECK=off to start all the same: what is finished when a disk is full is "
    "kept"
)
KEPT = "Everything that was finished is kept."
AGAIN = "then run the same command again: it goes on from there."


@dataclass(frozen=True)
class Space:
    """Of the file system mounted at `mount`; `inodes` is 0 where files are not counted."""

    mount: Path
    free: int  # bytes that this user may write
    total: int
    free_inodes: int
    inodes: int

    @property
    def no_inodes(self) -> bool:
        return self.inodes > 0 and self.free_inodes == 0

    @property
    def exhausted(self) -> bool:
        return self.no_inodes or self.free < FEW_BYTES

    def __str__(self) -> str:
        of_bytes = f"{self.free / 1e6:.1f} of {self.total / 1e6:.0f} MB are free"
        if not self.no_inodes:
            return of_bytes
        return f"0 of {self.inodes} inodes (names of files and folders) are free, {of_bytes}"


def space_at(path: Path) -> Space:
    """Of the file system that `path` is on, or would be."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    found = os.statvfs(there)
    return Space(
        mount=mount_of(there.resolve()),
        free=found.f_bavail * found.f_frsize,
        total=found.f_blocks * found.f_frsize,
        free_inodes=found.f_favail,
        inodes=found.f_files,
    )


def mount_of(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_mount())


def disk_full(path: Path, reason: str, *, needed: int | None = None) -> DiskFull:
    """The error in words. reason: the system's own. needed: bytes that were to be written."""
    space = space_at(path)
    wanted = f", {needed / 1e6:.1f} MB were to be written" if needed and needed > FEW_BYTES else ""
    fits = not space.exhausted and (needed or 0) <= space.free
    quota = ", less if there is a quota" if fits else ""
    advice = "Free some space (`roboscape gc` lists what no run needs)"
    if space.no_inodes:
        advice = (
            "Delete files that are not needed (`roboscape gc` lists what no run needs), or use a "
            "file system with more inodes"
        )
    return DiskFull(
        f"the disk is full ({reason}) while writing {path}: {space} on the file system "
        f"{space.mount}{quota}{wanted}. {KEPT} {advice}, {AGAIN}"
    )


def require_room(path: Path, n_bytes: int, what: str) -> None:
    """Raises DiskFull, before anything is written, if this upper estimate is not free there."""
    space = space_at(path)
    if n_bytes > space.free:
        raise DiskFull(
            f"{what} take about {megabytes(n_bytes)} in {path}, and {space} on the file system "
            f"{space.mount}, so nothing was started. Free some space (`roboscape gc` lists what no "
            f"run needs), choose another disk, or, since this is an upper estimate, {OVERRIDE}"
        )


def megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def as_disk_full(error: BaseException, *places: Path) -> DiskFull | None:
    """The error in words if a full disk is its cause; None if it is not.

    places: folders that were written to, for an error that does not name its file; the system's
    folder for temporary files is one of them.
    """
    for cause in causes(error):
        if type(cause) is DiskFull:  # Ray's own subclass has a trace as its text
            return DiskFull(str(cause))
        if (reason := reason_of(cause)) is None:
            continue
        if said := said_already(str(cause)):
            return DiskFull(said)
        name = getattr(cause, "filename", None)
        return disk_full(Path(name) if name else fullest(places), reason)
    return None


def reason_of(error: BaseException) -> str | None:
    """The system's words for a full disk or quota, if that is what this very error reports."""
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    return next((text for text in TEXTS if text in str(error)), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, the nearest first."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop(0)
        if one is None or one in seen:
            continue
        seen.append(one)
        yield one
        # `failures`: of each worker, PyTorch's error of a distributed checkpoint; `cause`: Ray's
        failures = getattr(one, "failures", None)
        if isinstance(failures, dict):
            left += [pair[0] for pair in failures.values() if isinstance(pair, tuple)]
        inner = getattr(one, "cause", None)
        left += [inner if isinstance(inner, BaseException) else None]
        left += [one.__cause__, one.__context__]


def said_already(text: str) -> str:
    """Our own sentence, from the text of an error of another process; empty if it is not there.

    A trace ends with the error that says most.
    """
    found = re.findall(rf"[^\n]*the disk is full[^\n]*{ALREADY_SAID}[^\n]*", text)
    return found[-1].rpartition("DiskFull: ")[2].strip() if found else ""


def fullest(places: tuple[Path, ...]) -> Path:
    """The first of the places whose file system has nothing left, else that with least."""
    known = [place for place in (*places, Path(tempfile.gettempdir())) if "://" not in str(place)]
    full = [place for place in known if space_at(place).exhausted]
    return full[0] if full else min(known, key=lambda place: space_at(place).free)


@contextmanager
def explain_disk_full(*places: Path) -> Iterator[None]:
    """Turns every error that a full disk causes into DiskFull; places: see `as_disk_full`."""
    try:
        yield
    except Exception as error:
        raise_if_disk_full(error, *places)
        raise


def raise_if_disk_full(error: Exception, *places: Path) -> None:
    """Raises DiskFull if a full disk is the error's cause: see `as_disk_full`."""
    if type(error) is DiskFull:
        raise error
    if (full := as_disk_full(error, *places)) is not None:
        raise full from error
