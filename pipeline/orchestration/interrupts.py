"""SIGTERM, as systemd, Slurm and `docker stop` send it, ends a command as Ctrl-C does.

Prefect and Ray put their own handlers in the place of the command's while they run. What these
raise cannot pass Ray's C++ calls, which abort the process; a KeyboardInterrupt can. So
`sigterm_interrupts` is entered again wherever a library has set its handler.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_depth = 0  # of blocks that are open
_terminated = False  # whether SIGTERM came in the outermost of them


def interrupted_by() -> str:
    """What a KeyboardInterrupt of this process came from."""
    return "SIGTERM" if _terminated else "Ctrl-C"


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the main thread for as long as the block lasts.

    Only the first one: whoever sends it again while the command cleans up would only break that.
    In another thread than the main one, which cannot set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _depth, _terminated
    before, me = signal.getsignal(signal.SIGTERM), os.getpid()
    _terminated = _terminated and _depth > 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _terminated
        if os.getpid() != me:  # a worker that was forked from it: ends as any process does
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not _terminated:
            _terminated = True
            raise KeyboardInterrupt

    _depth += 1
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        _depth -= 1
        # A handler that was not set from Python cannot be set again
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
