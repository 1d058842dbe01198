"""What a training reads of each clip, prepared once and kept: in memory, or in a file that workers
share.
"""

import hashlib
import json
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from model.training.parallel import ALONE, Workers
from storage.atomic import write_file

CACHE_BYTES = 1 << 30  # prepared clips up to this size are kept in memory
READ_ROWS = 32  # rows prepared at once
NOTE_S = 20.0  # seconds between notes of how far it is: a killed worker repeats at most so much
POLL_S = 0.5

Prepare = Callable[[Int[np.ndarray, " n"]], Mapping[str, np.ndarray]]
Told = Callable[[int, int], None]  # rows done, of how many


class PreparedRows:
    """`prepare` applied to rows: once to all of them and kept, where there is room, else batch by
    batch.

    `prepare` takes row numbers and gives arrays with one entry per row, each made from its own row
    only. What is kept lies clip by clip, so that one clip is one read: in memory up to
    `cache_bytes`, above that (and for many workers, who share the pages and, on one machine, the
    work) in a file in `folder`, which a later attempt finds again, whole or as far as it got.
    `told` hears how far it is, for millions of clips take an hour.
    """

    def __init__(
        self,
        prepare: Prepare,
        rows: Int[np.ndarray, " n"],
        cache_bytes: int = CACHE_BYTES,
        *,
        folder: Path | None = None,
        workers: Workers = ALONE,
        told: Told = lambda done, total: None,
    ):
        self.prepare, self.rows = prepare, np.sort(rows)
        first = prepare(self.rows[:1])
        self.clip = np.dtype(
            [(name, one.dtype, one.shape[1:]) for name, one in first.items()], align=True
        )
        n_bytes = len(rows) * self.clip.itemsize
        self.kept: np.ndarray | None = None
        if n_bytes <= cache_bytes and (workers.n == 1 or folder is None):
            self.kept = np.empty(len(rows), self.clip)
            for start in range(0, len(self.rows), READ_ROWS):
                self._read(self.kept, start)
                told(min(start + READ_ROWS, len(rows)), len(rows))
        elif folder is not None and workers.broadcast(has_room(folder, n_bytes)):
            file = SharedFile(folder, self.clip, self.rows, workers)
            self.kept = file.filled(self._read, told)
        elif folder is not None and workers.is_first:
            warnings.warn(
                f"{folder}: no room for {1.5 * n_bytes / 1e9:.1f} GB of prepared clips, so each is prepared anew for "
                "every batch, which is tens of times slower: free some space, or put the stores on another disk",
                stacklevel=2,
            )

    def _read(self, kept: np.ndarray, start: int) -> None:
        """Fills the run of rows that begins there."""
        part = self.prepare(self.rows[start : start + READ_ROWS])
        for name in self.clip.names or ():
            kept[name][start : start + READ_ROWS] = part[name]

    def __call__(self, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        if self.kept is None:
            return dict(self.prepare(rows))
        places = np.searchsorted(self.rows, rows)
        return {name: np.asarray(self.kept[name][places]) for name in self.clip.names or ()}


class SharedFile:
    """The prepared clips of one training, one after another.

    Beside it lie `begun.json` (of what), `part-0`, `part-1` ... (how many of its runs of rows each
    worker has written), and in the end `complete.json`. Workers wait for each other by these files,
    as long as it takes: a collective of the process group would time out after half an hour.
    """

    def __init__(self, folder: Path, clip: np.dtype, rows: Int[np.ndarray, " n"], workers: Workers):
        self.folder, self.clip, self.n_rows, self.workers = folder, clip, len(rows), workers
        self.path, self.complete = folder / "clips", folder / "complete.json"
        # A network's file system may mix up what two machines map at once.
        together = len(set(workers.gather(socket.gethostname()))) == 1
        self.n_parts = workers.n if together else 1
        self.what = json.dumps([str(clip), hashlib.sha256(rows.tobytes()).hexdigest()])

    def filled(self, read: Callable[[np.ndarray, int], None], told: Told) -> np.ndarray:
        workers = self.workers
        if not workers.broadcast(self.complete.exists() and self.complete.read_text() == self.what):
            if workers.is_first:
                self._begin()
            workers.barrier()
            if workers.rank < self.n_parts:
                self._fill(read, told)
            if workers.is_first:
                self._until(lambda: self._done() == self._n_runs(), told)
                write_file(self.complete, self.what.encode())
            else:
                self._until(self.complete.exists, told)
            workers.barrier()
        return np.memmap(self.path, self.clip, "r", shape=self.n_rows)

    def _begin(self) -> None:
        """Makes the file, unless an attempt before this one has begun the same with as many
        workers.
        """
        begun, wanted = self.folder / "begun.json", json.dumps([self.what, self.n_parts])
        if begun.exists() and begun.read_text() == wanted and self.path.exists():
            return
        for left in (begun, self.complete, *self.folder.glob("part-*")):
            left.unlink(missing_ok=True)
        np.memmap(self.path, self.clip, "w+", shape=self.n_rows)
        write_file(begun, wanted.encode())

    def _fill(self, read: Callable[[np.ndarray, int], None], told: Told) -> None:
        """This worker's runs of rows, every n-th of all."""
        kept = np.memmap(self.path, self.clip, "r+", shape=self.n_rows)
        starts = range(self.workers.rank * READ_ROWS, self.n_rows, self.n_parts * READ_ROWS)
        noted = time.monotonic()
        for i in range(self._part(self.workers.rank), len(starts)):
            read(kept, starts[i])
            if time.monotonic() - noted > NOTE_S:
                self._note(kept, i + 1, told)
                noted = time.monotonic()
        self._note(kept, len(starts), told)

    def _note(self, kept: np.memmap, n_done: int, told: Told) -> None:
        kept.flush()  # what is noted is on the disk
        write_file(self.folder / f"part-{self.workers.rank}", str(n_done).encode())
        self._tell(told)

    def _part(self, rank: int) -> int:
        part = self.folder / f"part-{rank}"
        return int(part.read_text()) if part.exists() else 0

    def _done(self) -> int:
        return sum(self._part(rank) for rank in range(self.n_parts))

    def _n_runs(self) -> int:
        return -(-self.n_rows // READ_ROWS)

    def _tell(self, told: Told) -> None:
        told(min(self._done() * READ_ROWS, self.n_rows), self.n_rows)

    def _until(self, there: Callable[[], bool], told: Told) -> None:
        """A worker that dies meanwhile is noticed by whoever started them all, and ends this one,
        too.
        """
        while not there():
            self._tell(told)
            time.sleep(POLL_S)


def has_room(folder: Path, n_bytes: int) -> bool:
    """Whether the folder's disk holds this much and half as much again, or holds it already.

    Blocks and not sizes: a file that was only begun is all holes, and to fill them without room
    ends the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = folder / "clips"
    already = there.stat().st_blocks * 512 if there.exists() else 0
    return shutil.disk_usage(folder).free > 1.5 * n_bytes - already
