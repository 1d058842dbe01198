"""A run's journal: one small JSON file per run, rewritten whole at every step.

`roboscape status`, `rerun` and the next run read from it what a run did, without a server, even if
its driver (the process that ran it) was killed. The driver touches the file at intervals, so that
another machine that shares the folder can tell a live run from a dead one; on its own machine the
process id and start time do.
"""

import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from storage.atomic import write_file
from storage.errors import DiskFull
from storage.processes import HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, ProcessName

# What `start_journal` gives, or its beginning; no store's key has a dash
RUN_ID = re.compile(r"\d{8}-(\d{1,5}|\d{6}(-\w*)?)")

StageState = Literal["waiting", "running", "completed", "cached", "failed", "crashed", "skipped"]


@dataclass(kw_only=True)
class StageEntry:
    """One stage of one run. `uri` is the address of its output, `note` a line for users."""

    name: str
    state: StageState = "waiting"
    uri: str = ""
    started: float = 0.0
    seconds: float = 0.0
    note: str = ""
    task_run: str = ""  # its id in Prefect
    artifact: str = ""  # id of its lineage page in Prefect
    unpublished: str = ""  # if that page could not be published: the state that it is to show


@dataclass(kw_only=True)
class Journal:
    path: Path
    id: str
    request: dict[str, Any]  # the flow's parameters: enough to start it again
    # The driver, as `ProcessName` has it
    pid: int = 0
    host: str = ""
    process_start: str = ""
    pid_space: str = ""
    started: float = field(default_factory=time.time)
    ended: float = 0.0
    state: Literal["running", "completed", "failed", "crashed"] = "running"
    note: str = ""  # why it ended, if no stage says so
    prefect_run: str = ""
    prefect_lost: str = ""  # why Prefect does not know how it went: see `roboscape publish`
    stages: list[StageEntry] = field(default_factory=list)

    def save(self) -> None:
        plain = {k: v for k, v in asdict(self).items() if k != "path"}
        write_file(self.path, json.dumps(plain, indent=1).encode(), flush=False)

    def save_if_there_is_room(self) -> None:
        """Saves it where an error is under way, which a full disk must not hide.

        What is on disk then says that the run goes on, until its driver has ended.
        """
        try:
            self.save()
        except DiskFull:
            print(f"{self.path} is not up to date: its disk is full", file=sys.stderr)

    def drive_here(self) -> None:
        """Makes this process its driver."""
        me = ProcessName()
        self.pid, self.host = me.pid, me.host
        self.process_start, self.pid_space = me.start, me.space

    @property
    def driver(self) -> ProcessName:
        return ProcessName(
            pid=self.pid, host=self.host, start=self.process_start, space=self.pid_space
        )

    def entry(self, stage: str) -> StageEntry:
        """The stage's entry, added at the end if it is new."""
        found = next((e for e in self.stages if e.name == stage), None)
        if found is None:
            found = StageEntry(name=stage)
            self.stages.append(found)
        return found

    def close(self, state: Literal["completed", "failed", "crashed"], note: str = "") -> None:
        self.state, self.ended, self.note = state, time.time(), note
        for entry in self.stages:
            if entry.state == "running":
                entry.state = "crashed" if state == "crashed" else "failed"
        self.save() if state == "completed" else self.save_if_there_is_room()

    @property
    def unpublished(self) -> list[StageEntry]:
        """The stages whose lineage pages are not in Prefect."""
        return [entry for entry in self.stages if entry.unpublished]

    @property
    def is_ours(self) -> bool:
        """Whether this process is, or was, its driver."""
        return self.driver.is_this

    @property
    def alive(self) -> bool:
        """Whether its driver still runs; on another machine, whether it has a recent heartbeat."""
        if self.state != "running":
            return False
        if (runs := self.driver.runs) is None:
            return time.time() - self.path.stat().st_mtime < HEARTBEAT_TIMEOUT_S
        return runs

    @property
    def true_state(self) -> str:
        """The state, or "crashed" if the driver ended without writing one."""
        return "crashed" if self.state == "running" and not self.alive else self.state

    @contextmanager
    def heartbeat(self, every_s: float = HEARTBEAT_S) -> Iterator[None]:
        """Touches the file from a thread for as long as the block lasts."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(every_s):
                with suppress(OSError):  # a share that fails for a while must not end the run
                    os.utime(self.path)

        thread = threading.Thread(target=beat, daemon=True, name=f"journal-{self.id}")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def start_journal(folder: Path, request: dict[str, Any]) -> Journal:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run_id = f"{stamp}-{uuid.uuid4().hex[:4]}"
    journal = Journal(path=folder / f"{run_id}.json", id=run_id, request=request)
    journal.drive_here()
    journal.save()
    return journal


def read_journal(path: Path) -> Journal:
    plain = json.loads(path.read_text())
    stages = [StageEntry(**entry) for entry in plain.pop("stages")]
    return Journal(path=path, stages=stages, **plain)


def journals(folder: Path) -> list[Journal]:
    """All runs, oldest first. Journals that cannot be read are skipped: they hold no data."""
    return read_all(folder)[0]


def read_all(folder: Path) -> tuple[list[Journal], list[str]]:
    """All runs, oldest first, and what is wrong with each journal that cannot be read."""
    found, unreadable = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_journal(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            unreadable.append(f"{path}: {type(error).__name__}: {error}")
    return sorted(found, key=lambda journal: journal.started), unreadable


def find_journal(folder: Path, run_id: str | None) -> Journal:
    """The run of this id (a unique prefix will do), or the latest one.

    Raises LookupError naming the latest runs.
    """
    known = journals(folder)
    matching = [j for j in known if run_id is None or j.id.startswith(run_id)]
    if not matching:
        ids = ", ".join(j.id for j in known[-5:]) or "none yet; `roboscape run` makes one"
        raise LookupError(f"no run {run_id or ''} in {folder}; the latest runs are: {ids}")
    if run_id is not None and len(matching) > 1 and all(j.id != run_id for j in matching):
        ids = ", ".join(j.id for j in matching)
        raise LookupError(f"run '{run_id}' is ambiguous, give more of its id: {ids}")
    return matching[-1]


def names_run(what: str) -> bool:
    """Whether this is a run's id, or a beginning of one that has its day and a dash."""
    return RUN_ID.fullmatch(what) is not None


def close_dead(folder: Path) -> list[Journal]:
    """Marks runs whose driver has ended as crashed, and returns them."""
    dead = [j for j in journals(folder) if j.state == "running" and not j.alive]
    for journal in dead:
        journal.close("crashed")
    return dead
