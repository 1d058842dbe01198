"""Connects this process to Ray for as long as a run lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.orchestration.interrupts import sigterm_interrupts
from pipeline.orchestration.services import ray_address
from pipeline.settings import Settings


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
    address = ray_address(settings)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.external_ray:
        # Workers on other machines need this code; on this one they import the same files
        options["runtime_env"] = {"py_modules": code_modules()}
    if address:
        ray.init(address=address, **options)
    else:  # without "local" Ray would attach to any cluster on this machine, even another user's
        ray.init("local", include_dashboard=False, **options)
    try:
        with sigterm_interrupts():  # in place of the handler of a Ray that was started here
            yield
    finally:
        ray.shutdown()


def code_modules() -> list[str]:
    return [
        str(Path(str(import_module(name).__file__)).parent)
        for name in ("pipeline", "stages", "model", "storage", "simulation")
    ]
