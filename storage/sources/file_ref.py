"""A source file, on its own or as a slice of an uncompressed tar, and the error for a bad one.

In: a path, or a text from the clip index. Out: an open binary file, or all of its bytes. Nothing is
extracted.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.disk_space import raise_if_disk_full

# Of a file that is read whole: calibration of 18 hours at 30 Hz has some 0.8 GB
MAX_BYTES = 1 << 30
_SLICE_TEXT = re.compile(r"(.+?\.tar)!(.+)@(\d+)\+(\d+)")


class SourceError(ValueError):
    """A file of the data set is unusable; the run continues without its episode or clip.

    reason: names the fault (`corrupt_video`), so that it can be counted. found, expected: what the
    file has and what a good one has.
    """

    def __init__(self, reason: str, item: object, found: str, expected: str):
        super().__init__(f"{item}: {reason}: found {found}; expected {expected}")
        self.reason, self.item, self.found, self.expected = reason, str(item), found, expected

    def __reduce__(self):  # it is raised in worker processes
        return SourceError, (self.reason, self.item, self.found, self.expected)


@contextmanager
def faults_as(reason: str, item: object, expected: str) -> Iterator[None]:
    """Raises SourceError for whatever is raised while a file is read.

    Damage makes libraries raise anything: RuntimeError, RecursionError, OverflowError. A list of
    expected ones is never whole, and one bad file must not end a run. Only the machine's own want
    of memory or disk space passes.
    """
    try:
        yield
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        raise_if_disk_full(error)
        found = f"{type(error).__name__}: {error}"
        raise SourceError(reason, item, found, expected) from error


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A file, or the member `member` of the tar at `path`: `size` bytes from `offset`."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0

    def open(self) -> io.BufferedReader:
        """The open file. Raises SourceError (`missing_file`) if it cannot be opened."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise SourceError(
                "missing_file", self, error.strerror or str(error), "a readable file"
            ) from error
        return io.BufferedReader(_Slice(file, self.offset, self.size)) if self.member else file

    def read_bytes(self, at_most: int = MAX_BYTES) -> bytes:
        """The whole file. Raises SourceError: `missing_file`, `truncated_tar`, `too_large`."""
        with self.open() as file:
            size = self.size if self.member else os.fstat(file.fileno()).st_size
            if size > at_most:
                found = f"{size / 1e9:.3g} GB"
                raise SourceError("too_large", self, found, f"at most {at_most / 1e9:.3g} GB")
            with faults_as("missing_file", self, "a readable file"):
                data = file.read()
        if self.member and len(data) != self.size:
            raise SourceError(
                "truncated_tar",
                self,
                f"{len(data)} bytes",
                f"{self.size} bytes (download it again)",
            )
        return data

    def text(self, root: Path) -> str:
        """As in the clip index: relative to the data set's root, which may be moved."""
        path = self.path.relative_to(root).as_posix()
        return f"{path}!{self.member}@{self.offset}+{self.size}" if self.member else path

    @classmethod
    def parse(cls, text: str, root: Path) -> "FileRef":
        """The inverse of `text`."""
        slice_of_tar = _SLICE_TEXT.fullmatch(text)
        if not slice_of_tar:
            return cls(path=root / text)
        path, member, offset, size = slice_of_tar.groups()
        return cls(path=root / path, member=member, offset=int(offset), size=int(size))

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)


class _Slice(io.RawIOBase):
    """Read-only window `[offset, offset + size)` of an open file, which it owns."""

    def __init__(self, file: io.BufferedReader, offset: int, size: int):
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}, before the start of the file")
        self._at = start + offset
        return self._at

    def readinto(self, buffer) -> int:
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
