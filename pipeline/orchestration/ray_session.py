"""Connects this process to Ray for as long as a run lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.orchestration.services import ray_address
from pipeline.settings import Settings


@contextmanager
def connect_ray(settings: Settings, wanted: bool = True) -> Iterator[None]:
    """Attaches to the cluster that the environment names, else to this workspace's head, else
    starts Ray here.

    A connection that the caller already has is used and left open.
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
        # Another machine's workers need this code; on this one they import the same files.
        options["runtime_env"] = {"py_modules": code_modules()}
    # Without an address Ray would attach to whatever cluster runs on this machine, somebody else's
    # too.
    ray.init(address=address, **options) if address else ray.init(
        "local", include_dashboard=False, **options
    )
    try:
        yield
    finally:
        ray.shutdown()


def code_modules() -> list[str]:
    return [
        str(Path(str(import_module(name).__file__)).parent)
        for name in ("pipeline", "stages", "model", "storage", "simulation")
    ]
