"""Weights files, named by what is in them: the digest is part of a stage's key, the file's place is
not.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from storage.errors import WeightsError
from storage.files import sha256_file


@dataclass(frozen=True, kw_only=True)
class WeightsRef:
    """One weights file. licence: SPDX name, or what its authors say; empty if unknown."""

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
        """Names the file at `path` by its digest. Raises WeightsError if there is none."""
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"weights '{name or path.stem}': there is no file {path}")
        return WeightsRef(
            name=name or path.stem, sha256=_digest(path), licence=licence, path=str(path.absolute())
        )

    def resolve(self) -> Path:
        """The file. Raises WeightsError if it is missing or its digest is another one."""
        path = Path(self.path)
        if not self.path or not path.is_file():
            raise WeightsError(
                f"weights '{self.name}' (SHA-256 {self.sha256[:12]}...): there is no file '{self.path}'. Put the file "
                "there, or name it anew with WeightsRef.of(path)."
            )
        found = _digest(path)
        if found != self.sha256:
            raise WeightsError(
                f"weights '{self.name}': {path} has the SHA-256 {found}, expected {self.sha256}. It is another file: "
                "bring the right one back, or name the new one with WeightsRef.of(path): what depends on it is remade."
            )
        return path


def is_non_commercial(licence: str) -> bool:
    """Whether an SPDX name forbids commercial use: Creative Commons' NC family is all that we have
    met.
    """
    return "-NC" in licence.upper()


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(str(path.absolute()), stat.st_size, stat.st_mtime_ns)


@lru_cache(1024)
def _digest_of(path: str, size: int, modified_ns: int) -> str:
    """Large files take seconds; the same name, size and time of change are taken for the same file."""
    return sha256_file(Path(path))
