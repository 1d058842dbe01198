"""Serves the flow as a deployment, so that runs can be started and retried from the UI.

`roboscape up` keeps this running: `python -m pipeline.orchestration.deployment`.
"""

import os
import select
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipeline.orchestration.services import ServiceError, read_services
from pipeline.settings import Settings, apply_environment

NAME = "local"
POLL_S = 0.5


def main() -> None:
    settings = Settings()
    apply_environment(settings)
    if not settings.external_prefect:
        end_with_server(settings)
    from pipeline.orchestration.flow_run import roboscape

    roboscape.serve(
        name=NAME,
        description=roboscape.description,
        pause_on_shutdown=False,
        print_starting_message=False,
    )


def end_with_server(settings: Settings) -> None:
    """Ends this process as soon as the workspace's server has ended and no run is under way.

    It runs what the server tells it to, and logs in to it every few seconds. When the server has
    ended, another user's program can take its port: it must find nobody who obeys it. A run that is
    under way goes on, and its output comes through this process, so that has to wait; if `up` has
    started another server by then, it goes on with that.
    """
    server = read_services(settings).get("prefect")
    if server is None:
        raise ServiceError("no Prefect server of this workspace runs: start it by `roboscape up`")
    descriptor = os.pidfd_open(server.pid)

    def watch() -> None:
        select.select([descriptor], [], [])
        while runs_under_way():
            if "prefect" in read_services(settings):
                with suppress(ServiceError, ProcessLookupError):  # it has ended, too
                    return end_with_server(settings)
            time.sleep(POLL_S)
        print("the Prefect server has ended, so this ends: `roboscape up`", flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def runs_under_way() -> int:
    """How many runs of the flow this process has started and not yet seen end."""
    children = [
        int(pid)
        for path in Path("/proc/self/task").glob("*/children")
        for pid in path.read_text().split()
    ]
    return sum(is_run(pid) for pid in children)


def is_run(pid: int) -> bool:
    """Also beside the process that keeps account of multiprocessing's resources, which stays."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # ended meanwhile
        return False
    return bool(command) and b"multiprocessing.resource_tracker" not in command


if __name__ == "__main__":
    main()
