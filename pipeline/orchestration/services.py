"""`up` and `down`: a Prefect server, a Ray head and the served deployment on this machine.

Each is started once and kept, since both need many seconds to start. Services that run already, or
that the environment names (PREFECT_API_URL, RAY_ADDRESS), are used as they are. `down` stops what
`up` started and nothing else: `ray stop` would end other users' Ray too.
"""

import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.login import without_login
from pipeline.orchestration.listeners import is_taken_by_another_user
from pipeline.orchestration.prefect_login import (
    LoginState,
    ensure_login,
    keep_private,
    locked_out,
    login_state,
    refresh_prefect,
    server_environment,
    write_secret,
)
from pipeline.settings import Settings, apply_environment
from storage.atomic import write_file
from storage.disk_space import disk_full, space_at
from storage.locks import locked
from storage.processes import children_of, process_start

START_LIMIT_S = 240.0  # on a busy laptop the server has needed two minutes
STOP_LIMIT_S = 10.0
OBJECT_STORE_BYTES = 256 << 20  # it only holds records of finished shards
NAMES = ("prefect", "ray", "deployment")


class ServiceError(RuntimeError):
    """A service could not be started; the message names the port or the log to look at."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process that `up` started. `start` is its start time, to recognize a reused process id."""

    name: str
    pid: int
    start: str
    address: str

    @property
    def alive(self) -> bool:
        return self.pid > 0 and process_start(self.pid) == self.start


def read_services(settings: Settings) -> dict[str, Service]:
    """The services that `up` started in this workspace and that still run."""
    found = {}
    for name in NAMES:
        path = settings.services / f"{name}.json"
        if path.exists():
            service = Service(**json.loads(path.read_text()))
            if service.alive:
                found[name] = service
            else:
                path.unlink(missing_ok=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Starting:
    """A service that does not answer yet.

    says: what to say when it does. lost: why it never will, "" as long as it may.
    """

    service: Service
    ready: Callable[[], bool]
    says: str = ""
    lost: Callable[[], str] = lambda: ""


def prefect_answers(settings: Settings, timeout_s: float = 2.0) -> bool:
    """Whether the Prefect server answers; another user's, in the place of ours, does not count."""
    if not settings.external_prefect and is_taken_by_another_user(settings.prefect_port):
        return False
    try:
        with urllib.request.urlopen(f"{settings.api_url}/health", timeout=timeout_s) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def up(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Starts the missing services, all at once, and waits until they answer.

    If another command starts them just now, waits for it first, with a message. Raises ServiceError
    naming a port that is taken, or the log of a service that did not start.
    """
    settings.services.mkdir(parents=True, exist_ok=True)
    with locked(
        settings.services / "up.lock",
        lambda who: say(f"Services: waiting for {who}, which starts them"),
    ):
        start_missing(settings, say)


def start_missing(settings: Settings, say: Callable[[str], None]) -> None:
    ensure_token(settings)
    apply_environment(settings)
    running = read_services(settings)
    starting: list[Starting] = []
    if settings.external_prefect:
        if not prefect_answers(settings, 10.0):
            raise ServiceError(
                f"the Prefect server at {settings.api_url} (PREFECT_API_URL) does not answer: "
                "start it, or unset PREFECT_API_URL to use one of this workspace"
            )
        if locked_out(settings):
            raise ServiceError(
                f"the Prefect server at {settings.api_url} (PREFECT_API_URL) refuses the login: "
                "set PREFECT_API_AUTH_STRING to the user:password that it asks for"
            )
        say(f"Prefect server: {settings.ui_url} (PREFECT_API_URL)")
    elif "prefect" in running:  # perhaps still starting, or busy
        starting.append(
            Starting(service=running["prefect"], ready=lambda: prefect_answers(settings, 10.0))
        )
    else:
        starting.append(start_prefect(settings, say))
    if settings.external_ray:
        say(f"Ray: {settings.external_ray} (RAY_ADDRESS)")
    elif settings.backend == "ray" and "ray" not in running:
        starting.append(start_ray(settings, say))
    wait_for(starting, settings, say)
    if not settings.external_prefect:
        check_login(settings, say)
        refresh_prefect()
    # An external server has a runner of its own
    if "deployment" not in running and not settings.external_prefect:
        start_deployment(settings, say)


def ensure_token(settings: Settings) -> None:
    """Makes Ray's token where there is none; at no moment can others read it, or half of it."""
    path = settings.services / "ray-token"
    if path.exists() and not path.stat().st_size:  # of an earlier version, on a full disk
        path.unlink()
    write_secret(path, secrets.token_hex(32))


def check_login(settings: Settings, say: Callable[[str], None]) -> LoginState:
    """How this workspace's server takes its login; says so if it is old and asks for none.

    Raises ServiceError if the server does not take this workspace's login.
    """
    state = login_state(settings)
    if state == "open":
        say(
            "The Prefect server was started by an earlier version and asks for no login: every "
            "user of this machine can start runs. `roboscape down` and `roboscape up` change that"
        )
    if state == "refused":
        raise ServiceError(
            f"the Prefect server at {settings.local_api} does not take the login in "
            f"{settings.login_file}: it was started with another one. `roboscape down` and "
            "`roboscape up` start it again; if it belongs to another workspace, choose another "
            "port with ROBOSCAPE_PREFECT_PORT"
        )
    return state


def start_prefect(settings: Settings, say: Callable[[str], None]) -> Starting:
    refuse_taken_port(settings.prefect_port)
    try:
        ensure_login(settings)
    except ValueError as error:
        raise ServiceError(str(error)) from error
    apply_environment(settings)  # with the login, for this process and the deployment
    keep_private(settings)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    command += ["--port", str(settings.prefect_port)]
    say("Prefect server: starting (about 20 s the first time)")
    environment = {**os.environ, **server_environment(settings)}
    return Starting(
        service=spawn(settings, "prefect", command, settings.ui_url, environment),
        ready=lambda: prefect_answers(settings),
        says=f"Prefect server: {settings.ui_url} (`roboscape ui` shows how to log in)",
    )


def start_ray(settings: Settings, say: Callable[[str], None]) -> Starting:
    say("Ray: starting a local head (about 10 s)")
    port = free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", f"--dashboard-port={free_port()}"]
    command += ["--dashboard-host=127.0.0.1", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    # It always serves Ray's client protocol; on 10001 that could be in another Ray's way
    command += [f"--ray-client-server-port={free_port()}"]
    log = settings.services / "ray.log"
    mark = log.stat().st_size if log.exists() else 0
    environment = without_login(dict(os.environ))  # its workers report to the driver
    service = spawn(settings, "ray", command, f"127.0.0.1:{port}", environment)
    control = 0  # process id of its gcs_server, once it is there

    def lost() -> str:
        """The head waits a minute for a gcs_server that is gone."""
        nonlocal control
        found = gcs_server_of(service.pid)
        if control and found != control:
            return f"its control process gcs_server (process {control}) has ended"
        control = found
        return ""

    return Starting(
        service=service,
        ready=lambda: b"Ray runtime started" in log.read_bytes()[mark:],
        says=f"Ray: {service.address}",
        lost=lost,
    )


def gcs_server_of(head: int) -> int:
    """Process id of the control process that this head of Ray has started; 0 if there is none."""
    for pid in children_of(head):
        with suppress(OSError):
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            if program.endswith(b"/gcs_server"):
                return pid
    return 0


def start_deployment(settings: Settings, say: Callable[[str], None]) -> None:
    """The process that executes runs started from the UI."""
    command = [sys.executable, "-m", "pipeline.orchestration.deployment"]
    spawn(settings, "deployment", command, settings.ui_url, dict(os.environ))
    say("Deployment 'roboscape/local': runs can be started and retried from the UI")


def spawn(
    settings: Settings, name: str, command: list[str], address: str, environment: dict[str, str]
) -> Service:
    """Starts a process with a log, in a session of its own: Ctrl-C does not end it.

    Secrets go into its environment, which only its user can read, not into its command line.
    """
    log = settings.services / f"{name}.log"
    environment |= {
        "ROBOSCAPE_HOME": str(settings.home),
        "PREFECT_API_URL": settings.api_url,
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=environment,
        )
    service = Service(name=name, pid=process.pid, start=process_start(process.pid), address=address)
    try:
        record = json.dumps(service.__dict__).encode()
        write_file(settings.services / f"{name}.json", record, flush=False)
    except BaseException:  # what is not recorded would run for ever
        stop(service)
        process.wait()
        raise
    return service


def wait_for(starting: Sequence[Starting], settings: Settings, say: Callable[[str], None]) -> None:
    """Waits until all of them answer. Raises ServiceError as soon as one of them cannot."""
    until, pending = time.monotonic() + START_LIMIT_S, list(starting)
    while pending:
        for each in list(pending):
            if each.ready():
                pending.remove(each)
                if each.says:
                    say(each.says)
            else:
                check_start(each, settings, until)
        if pending:
            time.sleep(0.3)


def check_start(starting: Starting, settings: Settings, until: float) -> None:
    """Raises ServiceError for a service that does not start any more, or has not by `until`."""
    service = starting.service
    log = settings.services / f"{service.name}.log"
    if reason := starting.lost():
        stop(service)
        raise ServiceError(
            f"{service.name} did not start: {reason} (killed, out of memory, a crash). The same "
            f"command starts it again. Its log: {log}"
        )
    if not service.alive or time.monotonic() > until:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        if space_at(log).exhausted:
            raise disk_full(log, os.strerror(errno.ENOSPC))
        why = "ended" if not service.alive else f"did not answer within {START_LIMIT_S:.0f} s"
        raise ServiceError(f"{service.name} {why}. The end of {log}:\n{tail}")


def refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on 127.0.0.1 is taken by another program, so the Prefect "
                "server cannot start there. Choose another with ROBOSCAPE_PREFECT_PORT, or name a "
                "running server with PREFECT_API_URL."
            ) from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def down(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Stops what `up` started in this workspace, the newest first."""
    running = read_services(settings)
    if not running:
        say("no service of this workspace is running")
    for name in reversed(NAMES):
        if name in running:
            stop(running[name])
            (settings.services / f"{name}.json").unlink(missing_ok=True)
            say(f"{name}: stopped")


def stop(service: Service) -> None:
    """Ends the whole process group: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(service.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + STOP_LIMIT_S
        while service.alive and time.monotonic() < until:
            time.sleep(0.1)
        if not service.alive:
            return
