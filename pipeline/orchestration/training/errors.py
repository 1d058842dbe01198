"""How a training with several workers fails: a worker that died, or an error that one recorded."""

import json
import re
import time
from collections.abc import Callable, Container
from pathlib import Path

from pipeline.orchestration.errors import StageFailed

POLL_S = 1.0


# Named by the errors of those who wait for a worker that is gone
ABSENCE = re.compile(r"gloo|nccl", re.IGNORECASE)


class WorkerDied(RuntimeError):
    """A worker ended without an error of its own: killed, out of memory, its machine lost."""


def raise_recorded(failures: Path, own_of: Container[int] | None = None) -> None:
    """Raises the first error that a worker noted there, if one did. (Later ones come from its
    absence.)

    With `own_of`, only one of these workers', and none that tells of another worker's absence.
    """
    notes = [(json.loads(path.read_text()), path.stem) for path in failures.glob("*.json")]
    if own_of is not None:
        notes = [
            (note, rank)
            for note, rank in notes
            if int(rank) in own_of and not ABSENCE.search(note["message"])
        ]
    if notes:
        note, rank = min(notes, key=lambda pair: pair[0]["at"])
        raise StageFailed(f"worker {rank}: {note['type']}: {note['message']}\n{note['trace']}")


def every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """`call`, but at most once in so many seconds."""
    last = 0.0

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
