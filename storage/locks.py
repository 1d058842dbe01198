"""One process at a time, on one machine: a locked file that names its holder.

The lock ends with its process, however that ends. Runs that share stores use leases instead
(`stores/leases.py`), which also count between machines.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2


@contextmanager
def locked(path: Path, held: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock file for as long as the block lasts.

    If another process has it, `held` is called once, with that process in words, and may raise;
    else it is waited for.
    """
    with path.open("a+") as file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    held(holder(path))
                said = True
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(path: Path) -> str:
    pid = path.read_text()
    return f"process {pid}" if pid else "another process"
