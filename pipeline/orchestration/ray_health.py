"""Ends a run within seconds when a process of this machine's Ray has died.

Ray itself waits a minute for a control process that is gone, then ends the driver with a line about
gRPC. So whoever waits for Ray looks at its processes meanwhile: `check` in a loop, `get` in place
of `ray.get`, `call` for what cannot be interrupted. Of a cluster that RAY_ADDRESS names, whose
processes run elsewhere and may be started again, nothing is watched.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration.services import ServiceError
from storage.processes import children_of, process_start, started_with

LOOK_S = 0.2  # Ray's head ends the others within a second of one: the first to die is the cause
WAIT_S = 1.0  # between two looks of those who wait
CAUSE_S = 5.0  # deaths so long before the fatal one belong to it
HEAD_ENDS_S = 3.0  # for Ray's head to end its other processes by itself
FLUSH_S = 3.0  # for Prefect to send the last lines of its log

# Name of the program or script -> what it is; Ray goes on without those that are not FATAL
ROLES = {
    "gcs_server": "control process gcs_server",
    "raylet": "raylet",
    "dashboard.py": "dashboard",
    "monitor.py": "monitor",
    "log_monitor.py": "log monitor",
    "ray.util.client.server": "client server",
    "ray_client_server": "client server",
}
# What the head notes when one of them ends: `gcs_server [exit code=-9]`, of scripts without .py
NOTED_END = re.compile(r"(\w+) \[exit code=")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HEAD = "head (`ray start`)"
FATAL = (ROLES["gcs_server"], ROLES["raylet"], HEAD)
CHILD = "agent"  # or an idle worker, of the raylet: not watched, but ended with what is left of Ray


class RayDied(ServiceError):
    """Ray's processes on this machine have died. What was finished is kept."""


@dataclass(frozen=True)
class RayProcess:
    role: str
    pid: int
    start: str  # its start time: another process may get its id

    @property
    def runs(self) -> bool:
        return bool(self.start) and process_start(self.pid) == self.start

    def __str__(self) -> str:
        return f"{self.role} (process {self.pid})"


def ray_processes(parent: int, head: bool) -> list[RayProcess]:
    """Ray's processes that `parent` has started; with `head`, the parent is one of them."""
    found = [RayProcess(HEAD, parent, process_start(parent))] if head else []
    for pid in children_of(parent):
        if role := role_of(pid):
            found.append(RayProcess(role, pid, process_start(pid)))
        if role == ROLES["raylet"]:
            found += [RayProcess(CHILD, of, process_start(of)) for of in children_of(pid)]
    return found


def role_of(pid: int) -> str:
    """What the process is to Ray; "" if it is none of `ROLES`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    # The program itself, or what Python runs: `python -u SCRIPT`, `python -m MODULE`
    names = [Path(word).name for word in words[:4]]
    return next((ROLES[name] for name in names if name in ROLES), "")


class RayWatch:
    """Looks at Ray's processes from a thread, to know which of them died first."""

    def __init__(self, processes: Sequence[RayProcess], log: str = ""):
        self.processes, self.log = processes, log
        self._mark = Path(log).stat().st_size if log else 0
        self.deaths: list[tuple[float, RayProcess]] = []  # moment (monotonic), in their order
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="ray-watch")

    def __enter__(self) -> "RayWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        with self._lock:
            known = {process for _, process in self.deaths}
            now = time.monotonic()
            for process in self.processes:
                if process.role != CHILD and process not in known and not process.runs:
                    self.deaths.append((now, process))

    @property
    def cause(self) -> list[RayProcess]:
        """Who died first, if Ray cannot go on; [] while it can. Several if they died together."""
        self.look()
        fatal = [at for at, process in self.deaths if process.role in FATAL]
        if not fatal:
            return []
        first = min(at for at, _ in self.deaths if at >= min(fatal) - CAUSE_S)
        together = [process for at, process in self.deaths if at == first]
        if len(together) == 1:
            return together
        # The head says in its log whose end made it end all others; else they ended with it
        of_head = [process for process in together if process.role in self.roles_in_log()]
        return of_head or [p for p in together if p.role == HEAD] or together

    def roles_in_log(self) -> set[str]:
        """Whose end Ray's head has noted in its log since the watch began."""
        if not self.log:
            return set()
        text = COLOURS.sub("", Path(self.log).read_bytes()[self._mark :].decode(errors="replace"))
        names = [name for found in NOTED_END.findall(text) for name in (found, f"{found}.py")]
        return {ROLES[name] for name in names if name in ROLES}

    def check(self) -> None:
        """Raises RayDied if Ray cannot go on."""
        if cause := self.cause:
            who, has = " and ".join(map(str, cause)), "has" if len(cause) == 1 else "have"
            log = f" Its log: {self.log}." if self.log else ""
            raise RayDied(
                f"Ray's {who} on this machine {has} ended, and the workers with it (killed, out of "
                f"memory, a crash, or `roboscape down`).{log} Everything that was finished is "
                "kept; the same command starts Ray again and resumes"
            )


_watch: RayWatch | None = None  # of the Ray that this process is connected to


@contextmanager
def watching(processes: Sequence[RayProcess], log: str = "") -> Iterator[RayWatch]:
    """Watches the Ray that this process is connected to for as long as the block lasts."""
    global _watch
    with RayWatch(processes, log) as _watch:
        try:
            yield _watch
        finally:
            _watch = None


def check() -> None:
    """Raises RayDied if the Ray that this process is connected to has died."""
    if _watch is not None:
        _watch.check()


def get(ref: Any, timeout_s: float) -> Any:
    """`ray.get`, but raises RayDied soon after Ray's death. Raises GetTimeoutError as it does."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    until = time.monotonic() + timeout_s
    while not ray.wait([ref], timeout=max(0.0, min(WAIT_S, until - time.monotonic())))[0]:
        check()
        if time.monotonic() >= until:
            raise GetTimeoutError(f"no result within {timeout_s:.0f} s")
    try:
        return ray.get(ref)
    except RayError:
        check()  # a lost worker of a Ray that has died is not the worker's fault
        raise


def call(function: Callable[[], Any]) -> Any:
    """The function's result, or RayDied: for calls to Ray that wait inside C++ for a dead GCS."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True, name="ray-call")
    thread.start()
    while thread.is_alive():
        thread.join(WAIT_S)
        if thread.is_alive():
            check()
    if failures:
        check()
        raise failures[0]
    return results[0]


def end_rest(processes: Sequence[RayProcess]) -> None:
    """Ends what is left of a Ray that has lost a process: these, their children, and its workers.

    A head of `ray start --block` ends its own by itself. The raylet's agents and workers see its
    death, but can wait a minute for a control process to report it to.
    """
    until = time.monotonic() + HEAD_ENDS_S
    heads = [process for process in processes if process.role == HEAD]
    while any(head.runs for head in heads) and time.monotonic() < until:
        time.sleep(LOOK_S)
    for process in processes:
        if process.runs:
            kill_tree(process.pid)
        if process.role == ROLES["raylet"]:
            for pid in started_with("RAY_RAYLET_PID", str(process.pid)):
                kill_tree(pid)


def kill_tree(pid: int) -> None:
    children = children_of(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in children:
        kill_tree(child)


def exit_now(code: int) -> None:
    """Ends this process without Python's exit handlers: Ray's waits a minute for its dead GCS."""
    flush = threading.Thread(target=logging.shutdown, daemon=True)
    flush.start()
    flush.join(FLUSH_S)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
