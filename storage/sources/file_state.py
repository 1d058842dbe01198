"""How to see that a file was changed without reading it."""

from dataclasses import dataclass
from pathlib import Path

# A file changed this recently may change again within one tick of the file system's clock
SETTLED_S = 2.0


@dataclass(frozen=True)
class FileState:
    """Times are the file system's own; a copy that keeps mtime and size has another inode."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Raises OSError if the file cannot be found."""
        found = path.stat()
        absolute = str(path.absolute())
        return cls(absolute, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def settled(self, now_s: float) -> bool:
        """Whether a later change is sure to show."""
        return max(self.mtime_ns, self.ctime_ns) / 1e9 < now_s - SETTLED_S
