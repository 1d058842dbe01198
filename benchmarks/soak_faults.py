"""The ways in which `soak.py` disturbs a run: processes that die, and a disk that is full."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Ray names a process after the actor's class: a worker of a clip stage, of a stage over the whole
# data set, of a training with several workers
CLIP_WORKER, STAGE_WORKER, TRAINING_WORKER = "ray::Worker", "ray::Dataset", "ray::RayTrain"
DISK_FULL = "disk full"
KEPT_FREE_BYTES = 200_000  # so that the disk is full in the middle of a file, too
TARGET_LIMIT_S = 30.0  # how long a fault waits for a process that it can hit
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a fault can hit. services: process ids by name. disk: the mounted one, if there is."""

    driver: subprocess.Popen[bytes]
    services: dict[str, int]
    disk: Path | None
    random: random.Random

    @property
    def over(self) -> bool:
        return self.driver.poll() is not None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`strike` returns what it did in a few words, or None if there was nothing to hit.

    share: how often among all faults. survives: the run goes on and completes; the command ends
    with one of `codes` otherwise.
    """

    name: str
    strike: Callable[[Scene], str | None]
    share: int
    survives: bool = False
    codes: tuple[int, ...] = (1,)


def signal_driver(number: signal.Signals) -> Callable[[Scene], str | None]:
    def strike(scene: Scene) -> str | None:
        if scene.over:
            return None
        scene.driver.send_signal(number)
        return f"{number.name} to the driver"

    return strike


def kill_process(
    *names: str, service: str = "ray", newborn: bool = False
) -> Callable[[Scene], str | None]:
    """SIGKILL to a process below the service whose command line has one of the names.

    newborn: one that starts only now, so that it dies before it has made anything.
    """

    def strike(scene: Scene) -> str | None:
        until, known = time.monotonic() + TARGET_LIMIT_S, set[psutil.Process]()
        if newborn:
            known = set(matching(scene, service, names))
        while not scene.over and time.monotonic() < until:
            if found := [p for p in matching(scene, service, names) if p not in known]:
                return kill(scene.random.choice(found))
            time.sleep(LOOK_EVERY_S)
        return None

    return strike


def matching(scene: Scene, service: str, names: tuple[str, ...]) -> list[psutil.Process]:
    found = list[psutil.Process]()
    with suppress(psutil.Error, KeyError):  # the service is being started again, or has ended
        for process in psutil.Process(scene.services[service]).children(recursive=True):
            with suppress(psutil.Error):
                if any(name in " ".join(process.cmdline()) for name in names):
                    found.append(process)
    return found


def kill_service(name: str) -> Callable[[Scene], str | None]:
    def strike(scene: Scene) -> str | None:
        if scene.over or name not in scene.services:
            return None
        with suppress(psutil.Error):
            return kill(psutil.Process(scene.services[name]))
        return None

    return strike


def kill(process: psutil.Process) -> str | None:
    try:
        command = process.cmdline()
        process.kill()
    except psutil.Error:
        return None
    return f"SIGKILL to {' '.join(command[:1]).rpartition('/')[2][:32]}"


def fill_disk(scene: Scene) -> str | None:
    """Takes all but a little of the disk's free space; `empty_disk` gives it back."""
    if scene.disk is None or scene.over:
        return None
    free = psutil.disk_usage(str(scene.disk)).free
    with suppress(OSError), filler(scene.disk).open("ab") as out:
        os.posix_fallocate(out.fileno(), 0, max(free - KEPT_FREE_BYTES, 1))
    return "disk filled"


def empty_disk(disk: Path | None) -> None:
    if disk is not None:
        filler(disk).unlink(missing_ok=True)


def filler(disk: Path) -> Path:
    return disk / "filler"


FAULTS = (
    Fault(name="driver: SIGKILL", share=16, strike=signal_driver(signal.SIGKILL), codes=(-9,)),
    # -15: before Python has set a handler for it, when nothing has begun
    Fault(name="driver: SIGTERM", share=10, strike=signal_driver(signal.SIGTERM), codes=(143, -15)),
    Fault(name="driver: Ctrl-C", share=8, strike=signal_driver(signal.SIGINT), codes=(130,)),
    Fault(
        name="worker of a stage: SIGKILL",
        share=20,
        strike=kill_process(CLIP_WORKER, STAGE_WORKER),
        survives=True,
    ),
    Fault(
        name="worker that starts: SIGKILL",
        share=10,
        strike=kill_process(CLIP_WORKER, STAGE_WORKER, newborn=True),
        survives=True,
    ),
    Fault(
        name="worker of a training: SIGKILL",
        share=8,
        strike=kill_process(TRAINING_WORKER),
        survives=True,
    ),
    Fault(name="raylet: SIGKILL", share=8, strike=kill_process("/raylet/raylet"), codes=(3,)),
    Fault(name="GCS: SIGKILL", share=8, strike=kill_process("/gcs/gcs_server"), codes=(3,)),
    Fault(
        name="Prefect server: SIGKILL", share=8, strike=kill_service("prefect"), survives=True
    ),
    Fault(name=DISK_FULL, share=8, strike=fill_disk),
)  # fmt: skip


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[bool]:
    """A disk of that size at the folder, if this user may mount one: yields whether."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            unmount(folder)


def unmount(folder: Path) -> None:
    # A process that is ending may still hold a file: the disk goes when the last is closed
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
