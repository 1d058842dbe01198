"""Batches made one step ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetched(Generic[Batch]):
    """Batches by number; a thread makes the next one while the current one is used.

    A thread, not a process: gathering arrays releases the GIL, and nothing is copied between
    processes.
    """

    def __init__(self, batch_at: Callable[[int], Batch]):
        self.batch_at = batch_at
        self.pool = ThreadPoolExecutor(1, "batches")
        self.ahead: tuple[int, Future[Batch]] | None = None

    def __call__(self, i: int) -> Batch:
        ready = self.ahead is not None and self.ahead[0] == i
        batch = self.ahead[1].result() if self.ahead is not None and ready else self.batch_at(i)
        self.ahead = i + 1, self.pool.submit(self.batch_at, i + 1)
        return batch

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
