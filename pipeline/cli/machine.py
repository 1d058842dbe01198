"""Whether this machine has room for the stages of a run, before services start and work begins."""

import os
from collections.abc import Iterable

from pipeline.orchestration.placement import resource_hint
from pipeline.settings import Settings
from stages.base import Stage


def check_room(stages: Iterable[Stage], settings: Settings, backend: str) -> None:
    """Raises ValueError for a stage that one worker's resources keep from ever starting here.

    On a cluster (RAY_ADDRESS) Ray's own nodes decide, when the stage starts. Without Ray, cores and
    memory are only a hint to the system's scheduler.
    """
    if settings.external_ray:
        return
    cores, memory_gb = os.cpu_count() or 1, memory_bytes() / 1e9
    for stage in stages:
        needed = stage.resources
        wanting = [
            ("GPU", "GPUs", needed.gpus, lambda: float(gpu_count())),
            *([("CPU", "cores", needed.cpus, lambda: float(cores))] if backend == "ray" else []),
            *([("memory", "GB", needed.memory_gb, lambda: memory_gb)] if backend == "ray" else []),
        ]
        for name, unit, amount, there in wanting:
            if amount and amount > there():
                raise ValueError(
                    f"stage '{stage.name}' asks for {amount:g} {unit} for one worker, this machine "
                    f"has {there():.4g}. {resource_hint(stage, [name])}, or use a Ray cluster "
                    "(RAY_ADDRESS)"
                )


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_count() -> int:
    import torch  # slow to import, and only GPU stages need it

    return torch.cuda.device_count()
