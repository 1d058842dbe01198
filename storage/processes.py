"""Tells whether a process that wrote its name somewhere still runs.

A process id alone does not: ids are given again, and mean nothing on another machine or in another
container. The start time tells two processes of one id apart; boot and pid namespace say where an
id can be looked up.
"""

import functools
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HEARTBEAT_S = 30.0
# A process of another machine without a heartbeat counts as dead; long, since clocks differ
HEARTBEAT_TIMEOUT_S = 600.0


def process_start(pid: int) -> str:
    """The process's start time in clock ticks since boot; "" if it has ended (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that still run."""
    found = []
    for other, folder in all_processes():
        with suppress(OSError):  # ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[1]) == pid:
                found.append(other)
    return found


def started_with(variable: str, value: str) -> list[int]:
    """The user's processes that got this variable of the environment at their start.

    Only those of this pid namespace: a container's processes can be seen from outside of it.
    """
    entry, space, found = f"{variable}={value}".encode(), os.readlink("/proc/self/ns/pid"), []
    for pid, folder in all_processes():
        with suppress(OSError):  # ended meanwhile, or another user's
            entries = (folder / "environ").read_bytes().split(b"\0")
            if entry in entries and os.readlink(folder / "ns/pid") == space:
                found.append(pid)
    return found


def all_processes() -> list[tuple[int, Path]]:
    """Id and folder of every process that can be seen."""
    folders = [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return sorted((int(path.name), path) for path in folders)


@functools.cache
def pid_space() -> str:
    """Names this boot of this machine and its pid namespace: a container has one of its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def host_name() -> str:
    return os.uname().nodename


@dataclass(frozen=True, kw_only=True)
class ProcessName:
    """A process as others can find it; by default this one.

    start, space: empty in records of older versions, which noted only id and host.
    """

    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=host_name)
    start: str = field(default_factory=lambda: process_start(os.getpid()))
    space: str = field(default_factory=pid_space)

    @property
    def runs(self) -> bool | None:
        """Whether it runs; None if that cannot be seen from here, and only a heartbeat tells."""
        if self.host != host_name() or self.space not in ("", pid_space()):
            return None
        found = process_start(self.pid)
        if found and not self.start:
            return None
        return bool(found) and found == self.start

    @property
    def is_this(self) -> bool:
        """Whether it is the process that asks."""
        return self.pid == os.getpid() and bool(self.runs)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"
