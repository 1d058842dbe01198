"""Connects this process to Ray for as long as a run lasts."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.orchestration.interrupts import sigterm_interrupts
from pipeline.orchestration.ray_health import RayWatch, end_rest, ray_processes, watching
from pipeline.orchestration.services import read_services
from pipeline.settings import Settings

SHUTDOWN_S = 2.0  # for Ray to notice that it is gone


@contextmanager
def connect_ray(settings: Settings, wanted: bool = True) -> Iterator[None]:
    """Connects to the environment's cluster, else to this workspace's head, else starts Ray here.

    An open connection is used, and left open.
    """
    if not wanted:
        yield
        return
    import ray

    if ray.is_initialized():
        yield
        return
    head = None if settings.external_ray else read_services(settings).get("ray")
    address = settings.external_ray or (head.address if head else None)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.external_ray:
        # Workers on other machines need this code; on this one they import the same files
        options["runtime_env"] = {"py_modules": code_modules()}
    if address:
        ray.init(address=address, **options)
    else:  # without "local" Ray would attach to any cluster on this machine, even another user's
        ray.init("local", include_dashboard=False, **options)
    processes, log = [], ""  # a cluster that the environment names is not this run's to watch
    if head:
        processes, log = ray_processes(head.pid, head=True), str(settings.services / "ray.log")
    elif not address:
        processes = ray_processes(os.getpid(), head=False)
    with (
        watching(processes, log) as watch,
        sigterm_interrupts(),  # in place of the handler of a Ray that was started here
    ):
        try:
            yield
        finally:
            disconnect(watch)


def disconnect(watch: RayWatch) -> None:
    """Ends the connection, and what is left of a Ray that has died.

    Ray's own `shutdown` waits up to a minute for a control process that is gone.
    """
    import ray

    if not watch.cause:
        ray.shutdown()
        return
    end_rest(watch.processes)
    shutdown = threading.Thread(target=ray.shutdown, daemon=True, name="ray-shutdown")
    shutdown.start()
    shutdown.join(SHUTDOWN_S)


def code_modules() -> list[str]:
    return [
        str(Path(str(import_module(name).__file__)).parent)
        for name in ("pipeline", "stages", "model", "storage", "simulation")
    ]
