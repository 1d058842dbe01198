"""A training's clips, prepared once and kept: in memory, or in a file that its workers share."""

import hashlib
import json
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from model.training.parallel import ALONE, Workers
from storage.atomic import naming_disk_full, write_file
from storage.errors import DiskFull

CACHE_BYTES = 1 << 30  # prepared clips up to this size are kept in memory
READ_ROWS = 32  # rows prepared at once
SAVE_S = 20.0  # seconds between saves of the progress: a killed worker repeats at most this
POLL_S = 0.5

Prepare = Callable[[Int[np.ndarray, " n"]], Mapping[str, np.ndarray]]
OnProgress = Callable[[int, int], None]  # rows done, total


class PreparedRows:
    """`prepare` applied to rows: to all of them once where there is room, else batch by batch.

    `prepare` takes row numbers and returns arrays with one entry per row, each made from its own
    row only. The result is stored clip by clip, so that one clip is one read: in memory up to
    `cache_bytes`; above that, or with several workers, in a file in `folder`, which a later attempt
    resumes. Workers share the file's pages and, on one machine, the work.
    """

    def __init__(
        self,
        prepare: Prepare,
        rows: Int[np.ndarray, " n"],
        cache_bytes: int = CACHE_BYTES,
        *,
        folder: Path | None = None,
        workers: Workers = ALONE,
        on_progress: OnProgress = lambda done, total: None,
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
                on_progress(min(start + READ_ROWS, len(rows)), len(rows))
        elif folder is not None and workers.broadcast(has_room(folder, n_bytes)):
            file = SharedFile(folder, self.clip, self.rows, workers)
            self.kept = file.filled(self._read, on_progress)
        elif folder is not None and workers.is_first:
            warnings.warn(
                f"{folder}: no room for {1.5 * n_bytes / 1e9:.1f} GB of prepared clips, so they "
                "are prepared again for every batch, tens of times slower: free some space, or put "
                "the stores on another disk",
                stacklevel=2,
            )

    def _read(self, kept: np.ndarray, start: int) -> None:
        """Prepares the run of `READ_ROWS` rows from `start` on."""
        part = self.prepare(self.rows[start : start + READ_ROWS])
        for name in self.clip.names or ():
            kept[name][start : start + READ_ROWS] = part[name]

    def __call__(self, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        if self.kept is None:
            return dict(self.prepare(rows))
        places = np.searchsorted(self.rows, rows)
        return {name: np.asarray(self.kept[name][places]) for name in self.clip.names or ()}


class SharedFile:
    """The file of prepared clips of one training.

    Beside it: `begun.json` (what is prepared), `part-0`, `part-1` ... (how many runs of rows each
    worker has written), at the end `complete.json`. Workers wait for each other by these files: a
    collective of the process group would time out after half an hour.
    """

    def __init__(self, folder: Path, clip: np.dtype, rows: Int[np.ndarray, " n"], workers: Workers):
        self.folder, self.clip, self.n_rows, self.workers = folder, clip, len(rows), workers
        self.path, self.complete = folder / "clips", folder / "complete.json"
        # Memory maps of one file on two machines need not agree, so one machine fills it
        together = len(set(workers.gather(socket.gethostname()))) == 1
        self.n_parts = workers.n if together else 1
        self.what = json.dumps([str(clip), hashlib.sha256(rows.tobytes()).hexdigest()])

    def filled(
        self, read: Callable[[np.ndarray, int], None], on_progress: OnProgress
    ) -> np.ndarray:
        workers = self.workers
        if not workers.broadcast(self.complete.exists() and self.complete.read_text() == self.what):
            if workers.is_first:
                self._begin()
            workers.barrier()
            if workers.rank < self.n_parts:
                self._fill(read, on_progress)
            if workers.is_first:
                self._wait_until(lambda: self._done() == self._n_runs(), on_progress)
                write_file(self.complete, self.what.encode())
            else:
                self._wait_until(self.complete.exists, on_progress)
            workers.barrier()
        return np.memmap(self.path, self.clip, "r", shape=self.n_rows)

    def _begin(self) -> None:
        """Creates the file, unless an earlier attempt began the same with as many workers."""
        begun, wanted = self.folder / "begun.json", json.dumps([self.what, self.n_parts])
        if begun.exists() and begun.read_text() == wanted and self.path.exists():
            return
        for stale in (begun, self.complete, *self.folder.glob("part-*")):
            stale.unlink(missing_ok=True)
        self._reserve()
        write_file(begun, wanted.encode())

    def _reserve(self) -> None:
        """Makes the file with all of its space: in one without, a full disk would end the process
        at the row that finds none (SIGBUS). Raises DiskFull.
        """
        n_bytes = self.n_rows * self.clip.itemsize
        try:
            with naming_disk_full(self.path, n_bytes), self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, n_bytes)
        except DiskFull:
            self.path.unlink(missing_ok=True)
            raise

    def _fill(self, read: Callable[[np.ndarray, int], None], on_progress: OnProgress) -> None:
        """This worker's runs of rows, every n-th of all."""
        kept = np.memmap(self.path, self.clip, "r+", shape=self.n_rows)
        starts = range(self.workers.rank * READ_ROWS, self.n_rows, self.n_parts * READ_ROWS)
        saved = time.monotonic()
        for i in range(self._part(self.workers.rank), len(starts)):
            read(kept, starts[i])
            if time.monotonic() - saved > SAVE_S:
                self._save_progress(kept, i + 1, on_progress)
                saved = time.monotonic()
        self._save_progress(kept, len(starts), on_progress)

    def _save_progress(self, kept: np.memmap, n_done: int, on_progress: OnProgress) -> None:
        kept.flush()  # first the rows, then their count
        write_file(self.folder / f"part-{self.workers.rank}", str(n_done).encode())
        self._report(on_progress)

    def _part(self, rank: int) -> int:
        part = self.folder / f"part-{rank}"
        return int(part.read_text()) if part.exists() else 0

    def _done(self) -> int:
        return sum(self._part(rank) for rank in range(self.n_parts))

    def _n_runs(self) -> int:
        return -(-self.n_rows // READ_ROWS)

    def _report(self, on_progress: OnProgress) -> None:
        on_progress(min(self._done() * READ_ROWS, self.n_rows), self.n_rows)

    def _wait_until(self, ready: Callable[[], bool], on_progress: OnProgress) -> None:
        """Waits without a limit: if a worker dies, the launcher ends this one, too."""
        while not ready():
            self._report(on_progress)
            time.sleep(POLL_S)


def has_room(folder: Path, n_bytes: int) -> bool:
    """Whether the folder's disk holds this much and half as much again, or holds it already.

    Counts allocated blocks, not sizes: a file of an earlier version that was only begun is sparse,
    and filling it without room ends the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = folder / "clips"
    already = clips.stat().st_blocks * 512 if clips.exists() else 0
    return shutil.disk_usage(folder).free > 1.5 * n_bytes - already
