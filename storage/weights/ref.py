"""Weights files by their digest, which is part of a stage's key; the file's place is not."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from storage.errors import WeightsError
from storage.files import sha256_file


@dataclass(frozen=True, kw_only=True)
class WeightsRef:
    """One weights file. licence: SPDX name or its authors' own words; empty if unknown."""

    name: str
    sha256: str
    licence: str = field(default="", metadata={"key": False})
    path: str = field(default="", metadata={"key": False})

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(
                f"weights '{self.name}': '{self.sha256}' is not a SHA-256 in 64 hex digits"
            )

    @property
    def non_commercial(self) -> bool:
        return is_non_commercial(self.licence)

    @staticmethod
    def of(path: Path | str, name: str = "", licence: str = "") -> "WeightsRef":
        """The file at `path`, hashed. Raises WeightsError if there is none."""
        path = Path(path)
        name = name or path.stem
        if not path.is_file():
            raise WeightsError(f"weights '{name}': there is no file {path}")
        place = str(path.absolute())
        return WeightsRef(name=name, sha256=_digest(path), licence=licence, path=place)

    def resolve(self) -> Path:
        """The file. Raises WeightsError if it is missing or has another digest."""
        path = Path(self.path)
        if not self.path or not path.is_file():
            raise WeightsError(
                f"weights '{self.name}' (SHA-256 {self.sha256[:12]}...): there is no file "
                f"'{self.path}'. Put the file there, or use WeightsRef.of(path) with its new place."
            )
        found = _digest(path)
        if found != self.sha256:
            raise WeightsError(
                f"weights '{self.name}': {path} has the SHA-256 {found}, expected {self.sha256}. "
                "It is another file: restore the right one, or use WeightsRef.of(path), and what "
                "depends on it is made again."
            )
        return path


def is_non_commercial(licence: str) -> bool:
    """Whether an SPDX name forbids commercial use: of ours, only Creative Commons' NC family."""
    return "-NC" in licence.upper()


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(str(path.absolute()), stat.st_size, stat.st_mtime_ns)


@lru_cache(1024)
def _digest_of(path: str, size: int, modified_ns: int) -> str:
    """Cached, as large files take seconds: same path, size and time of change, same file."""
    return sha256_file(Path(path))
