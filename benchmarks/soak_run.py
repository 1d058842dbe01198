"""One workspace under `soak.py`: the real command, what it does, and whether its status is true."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.orchestration import services
from pipeline.orchestration.journal import Journal, journals
from pipeline.settings import Settings
from storage.stores import store
from storage.stores.records import StoreRef

COMMAND = (sys.executable, "-m", "pipeline.cli.app")
DONE = ("completed", "cached")
LOOK_EVERY_S = 0.2
END_LIMIT_S = 10.0
# Exit code -> states that are true of its run. Driver and journal may end by either word.
TRUE_STATES = {0: ("completed",), -9: ("crashed",)}
ENDED_STATES = ("failed", "crashed")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """options: of `roboscape run`. disk: the mounted one that holds all of it, if there is."""

    settings: Settings
    options: Sequence[str]
    disk: Path | None

    @classmethod
    def at(cls, home: Path, options: Sequence[str], disk: Path | None = None) -> "Workspace":
        settings = Settings(home=home, prefect_port=services.free_port())
        return cls(settings=settings, options=options, disk=disk)

    @property
    def root(self) -> str:
        """Of its stores."""
        return self.settings.stores

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "ROBOSCAPE_HOME": str(self.settings.home),
            "ROBOSCAPE_STORES": self.root,
            "ROBOSCAPE_PREFECT_PORT": str(self.settings.prefect_port),
        }
        return os.environ | own

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Any command in this workspace, to its end."""
        return subprocess.run([*COMMAND, *words], env=self.environment, capture_output=True)

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """`roboscape run`, its output in `log`."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [*COMMAND, "run", *self.options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def left_running(self) -> list[str]:
        """Processes of this workspace that live on although its services were stopped."""

        def alive() -> list[psutil.Process]:
            return [p for p in psutil.process_iter() if home_of(p) == str(self.settings.home)]

        wait_for(lambda: not alive(), END_LIMIT_S)
        return [f"still running: {process}" for process in alive()]

    def services(self) -> dict[str, int]:
        found = services.read_services(self.settings)
        return {name: service.pid for name, service in found.items()}

    def journal_of(self, driver: subprocess.Popen[bytes]) -> Journal | None:
        """Of the run that this process drives; None until it has begun."""
        known = journals(self.settings.runs) if self.settings.runs.exists() else []
        return next((j for j in reversed(known) if j.pid == driver.pid), None)

    def stage(self, driver: subprocess.Popen[bytes]) -> str:
        """The stage that runs, as the journal has it."""
        journal = self.journal_of(driver)
        if journal is None:
            return "(start)"
        running = [entry.name for entry in journal.stages if entry.state == "running"]
        return running[-1] if running else "(between stages)"

    def progress(self, driver: subprocess.Popen[bytes]) -> tuple[object, ...]:
        """What changes whenever the run gets on: files below the stores, states of the stages."""
        files = set[tuple[str, int, int]]()
        for folder, _, names in os.walk(f"{self.root}/stores"):
            for name in names:
                try:
                    found = os.stat(f"{folder}/{name}")
                except OSError:  # a temporary file that has its own name by now
                    continue
                files.add((f"{folder}/{name}", found.st_size, found.st_mtime_ns))
        journal = self.journal_of(driver)
        states = tuple((e.name, e.state) for e in journal.stages) if journal else ()
        return frozenset(files), states

    def longest_wait(
        self, driver: subprocess.Popen[bytes], *, until_progress: bool, limit_s: float
    ) -> tuple[float, bool]:
        """Waits until the command ends, or gets on: the longest time of no progress, in seconds.

        And whether it was given up, after `limit_s` of none. What a dying command still writes
        counts as progress, so a fault that ends it is waited out to the end.
        """
        longest, seen, since = 0.0, self.progress(driver), time.monotonic()
        while driver.poll() is None:
            if (now := self.progress(driver)) != seen:
                seen, since = now, time.monotonic()
                if until_progress:
                    break
            elif time.monotonic() - since > limit_s:
                return limit_s, True
            time.sleep(LOOK_EVERY_S)
            longest = max(longest, time.monotonic() - since)
        return longest, False

    def false_status(self, driver: subprocess.Popen[bytes]) -> list[str]:
        """What `roboscape status` says of this run and is not so."""
        code = driver.poll()
        journal = self.journal_of(driver)
        if journal is None:  # it ended, or was killed, before it began a run
            return [] if code != 0 else ["exit code 0 without a journal"]
        true = ("running",) if code is None else TRUE_STATES.get(code, ENDED_STATES)
        wrong = []
        if journal.true_state not in true:
            wrong.append(f"status says {journal.true_state}, true is {' or '.join(true)}")
        for entry in journal.stages:
            if entry.state in DONE and not store.is_complete(StoreRef(entry.uri)):
                wrong.append(
                    f"status says {entry.name} is {entry.state}; its store is not complete"
                )
        return wrong


def home_of(process: psutil.Process) -> str:
    """The workspace that its environment names; "" if there is none, or it has ended."""
    try:
        return process.environ().get("ROBOSCAPE_HOME", "")
    except psutil.Error:
        return ""


def wait_for(ready: Callable[[], bool], limit_s: float) -> float:
    """Seconds until it is ready, `limit_s` if it is not by then."""
    began = time.monotonic()
    while not ready() and time.monotonic() - began < limit_s:
        time.sleep(LOOK_EVERY_S)
    return min(time.monotonic() - began, limit_s)
