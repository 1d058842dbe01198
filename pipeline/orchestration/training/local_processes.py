"""The workers of a training as processes of this machine, with torchrun's environment variables.

torchrun itself restarts its workers after any error. Here exit codes decide: only a killed process
leads to a restart.
"""

import errno
import os
import signal
import socket
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
from storage.disk_space import disk_full, space_at

FAILURES = "failures"  # folder of the recorded errors
EXIT_POLL_S = 0.1
GRACE_S = 5.0  # for the others to record their errors after one process has ended
TAIL_LINES = 15


def launch(spec: TrainingSpec, watch: Callable[[], None]) -> None:
    """Runs `spec.stage.workers` processes to their end.

    Raises WorkerDied if one was killed, StageFailed with the error that one recorded. No process is
    left running.
    """
    with TemporaryDirectory(prefix="roboscape-training-") as name:
        folder = Path(name)
        (folder / "training.json").write_text(spec.to_json())
        store = rendezvous()
        logs = [(folder / f"worker-{rank}.log").open("w+") for rank in range(spec.stage.workers)]
        processes = [
            start(rank, spec.stage.workers, store.port, folder, log)
            for rank, log in enumerate(logs)
        ]
        try:
            wait_for(processes, every(POLL_S, watch))
            raise_cause(processes, logs, folder)
        finally:
            for process in processes:
                end(process)
            for log in logs:
                log.close()


def rendezvous() -> TCPStore:
    """The server at which the workers meet, on a port that the system chose.

    It gets an open socket: one of its own would listen on every interface, for anybody.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    return TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def start(rank: int, n: int, port: int, folder: Path, log: IO[str]) -> subprocess.Popen[bytes]:
    """Starts a worker in a session of its own, out of reach of Ctrl-C; it ends with its parent."""
    # Else gloo listens on the interface of the machine's host name
    environment = {"GLOO_SOCKET_IFNAME": "lo"} | os.environ | {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    command = [sys.executable, "-m", "stages.world_model.torchrun", str(folder / "training.json")]
    command += ["--failures", str(folder / FAILURES), "--parent", str(os.getpid())]
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def wait_for(processes: list[subprocess.Popen[bytes]], watch: Callable[[], None]) -> None:
    """Waits until all have ended or one has failed; then a while for the others."""
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        watch()
        time.sleep(EXIT_POLL_S)
    until = time.monotonic() + GRACE_S
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(EXIT_POLL_S)


def raise_cause(
    processes: list[subprocess.Popen[bytes]], logs: Sequence[IO[str]], folder: Path
) -> None:
    """Raises WorkerDied or StageFailed, whichever ended the processes; nothing if all succeeded.

    A killed worker makes the others fail, with errors that they record; but torch may also abort a
    worker (SIGABRT) because another one failed.
    """
    codes = {rank: process.poll() for rank, process in enumerate(processes)}
    killed = {rank: signal.Signals(-code) for rank, code in codes.items() if code and code < 0}
    if not killed:
        raise_recorded(folder / FAILURES)
    elif set(killed.values()) == {signal.SIGABRT}:
        raise_recorded(
            folder / FAILURES, own_of=[r for r, code in codes.items() if code and code > 0]
        )
    for rank, number in killed.items():
        raise WorkerDied(f"worker {rank} was ended by {number.name}\n{tail(logs[rank])}")
    for rank, code in codes.items():
        if code != 0 and space_at(folder).exhausted:  # so that no worker could record its error
            raise disk_full(folder / FAILURES, os.strerror(errno.ENOSPC))
        if code != 0:
            raise WorkerDied(f"worker {rank} ended with code {code}\n{tail(logs[rank])}")


def tail(log: IO[str]) -> str:
    log.seek(0)
    return "\n".join(log.read().splitlines()[-TAIL_LINES:])


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
