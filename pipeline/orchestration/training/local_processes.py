"""The workers of a training as processes of this machine, with the environment that torchrun would
give them.

torchrun itself restarts its workers after any error. Here the exit codes are looked at, so that
only a killed process is a reason to go on.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

from pipeline.orchestration.training.errors import POLL_S, WorkerDied, every, raise_recorded
from stages.world_model.torchrun import TrainingSpec

FAILURES = "failures"  # folder of the notes of errors
LOOK_S = 0.1  # between looks at the processes
GRACE_S = 5.0  # for an error of the others to be noted after one process has ended
TAIL_LINES = 15


def launch(spec: TrainingSpec, watch: Callable[[], None]) -> None:
    """Runs `spec.stage.workers` processes to their end.

    Raises WorkerDied if one was killed, StageFailed with a worker's own error. None of them is left
    running.
    """
    with TemporaryDirectory(prefix="roboscape-training-") as name:
        folder = Path(name)
        (folder / "training.json").write_text(spec.to_json())
        # The meeting point is here, on a port that the system chose: no race for a free one.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        logs = [(folder / f"worker-{rank}.log").open("w+") for rank in range(spec.stage.workers)]
        processes = [
            start(rank, spec.stage.workers, store.port, folder, log)
            for rank, log in enumerate(logs)
        ]
        try:
            wait_for(processes, every(POLL_S, watch))
            judge(processes, logs, folder)
        finally:
            for process in processes:
                end(process)
            for log in logs:
                log.close()


def start(rank: int, n: int, port: int, folder: Path, log: IO[str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C here is not a kill there; it ends with this process
    anyway.
    """
    environment = os.environ | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    command = [sys.executable, "-m", "stages.world_model.torchrun", str(folder / "training.json")]
    command += ["--failures", str(folder / FAILURES), "--parent", str(os.getpid())]
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def wait_for(processes: list[subprocess.Popen[bytes]], watch: Callable[[], None]) -> None:
    """Until all have ended, or the first one that ended badly and, soon after, those that noticed
    it.
    """
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        watch()
        time.sleep(LOOK_S)
    until = time.monotonic() + GRACE_S
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(LOOK_S)


def judge(processes: list[subprocess.Popen[bytes]], logs: Sequence[IO[str]], folder: Path) -> None:
    """Tells a death from an error of the training's own. One worker's death makes the others fail,
    with errors that they note; but an abort may also be torch's answer to another one's error.
    """
    codes = {rank: process.poll() for rank, process in enumerate(processes)}
    killed = {
        rank: signal.Signals(-code) for rank, code in codes.items() if code is not None and code < 0
    }
    if not killed:
        raise_recorded(folder / FAILURES)
    elif set(killed.values()) == {signal.SIGABRT}:
        raise_recorded(
            folder / FAILURES,
            own_of=[rank for rank, code in codes.items() if code is not None and code > 0],
        )
    for rank, number in killed.items():
        raise WorkerDied(f"worker {rank} was ended by {number.name}\n{tail(logs[rank])}")
    for rank, code in codes.items():
        if code != 0:
            raise WorkerDied(f"worker {rank} ended with code {code}\n{tail(logs[rank])}")


def tail(log: IO[str]) -> str:
    log.seek(0)
    return "\n".join(log.read().splitlines()[-TAIL_LINES:])


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
