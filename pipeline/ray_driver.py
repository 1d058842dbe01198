"""Connects this process to Ray for as long as a run lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.services import ray_address
from pipeline.settings import Settings


@contextmanager
def connect_ray(settings: Settings, wanted: bool = True) -> Iterator[None]:
    """Attaches to the cluster that the environment names, else to this workspace's head, else starts Ray here.

    A connection that the caller already has is used and left open.
    """
    if not wanted:
        yield
        return
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        address=ray_address(settings),
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False if ray_address(settings) is None else None,
        # On another machine's cluster the workers need this code; on this one they import the same files.
        runtime_env={"py_modules": code_modules()} if settings.external_ray else None,
    )
    try:
        yield
    finally:
        ray.shutdown()


def code_modules() -> list[str]:
    from importlib import import_module
    from pathlib import Path

    return [str(Path(str(import_module(name).__file__)).parent) for name in ("pipeline", "stages", "model", "storage")]
