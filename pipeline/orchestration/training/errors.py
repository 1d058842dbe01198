"""How a training with several workers fails: a worker died, or recorded an error."""

import json
import re
import time
from collections.abc import Callable, Container
from pathlib import Path

from pipeline.orchestration.errors import StageFailed
from storage.errors import DiskFull

POLL_S = 1.0
# In the messages of workers that wait for one that has ended
LOST_PEER = re.compile(r"gloo|nccl", re.IGNORECASE)


class WorkerDied(RuntimeError):
    """A worker ended without recording an error: killed, out of memory, or its machine lost."""


def raise_recorded(failures: Path, own_of: Container[int] | None = None) -> None:
    """Raises StageFailed with the first recorded error, if any; later ones follow from it.

    With `own_of`, only errors of these ranks count, and none that is about a lost peer.
    """
    records = [(json.loads(path.read_text()), int(path.stem)) for path in failures.glob("*.json")]
    if own_of is not None:
        records = [
            (record, rank)
            for record, rank in records
            if rank in own_of and not LOST_PEER.search(record["message"])
        ]
    if records:
        first, rank = min(records, key=lambda pair: pair[0]["at"])
        if first["type"] == DiskFull.__name__:
            raise DiskFull(first["message"])
        raise StageFailed(f"worker {rank}: {first['type']}: {first['message']}\n{first['trace']}")


def every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """`call`, limited to once in so many seconds."""
    last = 0.0

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
