"""Whether this machine has room for the stages of a run, before services start and work begins."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from model.magvit2.config import MagvitConfig
from model.training.device import pick_device
from model.world.config import WorldModelConfig
from pipeline.orchestration.placement import resource_hint
from pipeline.settings import Settings
from stages.base import Stage

TRAINED_BYTES = 16  # of a weight in training: value, gradient and Adam's two moments, float32


def check_room(stages: Iterable[Stage], settings: Settings, backend: str) -> None:
    """Raises ValueError for a stage that one worker's resources keep from ever starting here.

    On a cluster (RAY_ADDRESS) Ray's own nodes decide, when the stage starts. Without Ray, cores and
    memory are only a hint to the system's scheduler.
    """
    if settings.external_ray:
        return
    cores, memory_gb = os.cpu_count() or 1, memory_bytes() / 1e9
    for stage in stages:
        check_devices(stage)
        check_network(stage, memory_gb)
        needed = stage.resources
        wanting = [
            ("GPU", "GPUs", needed.gpus, lambda: float(torch.cuda.device_count())),
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


def check_devices(stage: Stage) -> None:
    """Raises ValueError for a device that this machine does not have."""
    for path, name in devices_of(stage, stage.name):
        try:
            pick_device(name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def devices_of(config: object, path: str) -> Iterator[tuple[str, str]]:
    """The devices that the stage or one of its parts names: (where, name)."""
    if not is_dataclass(config):
        return
    for field in fields(config):
        value, where = getattr(config, field.name), f"{path}.{field.name}"
        if field.name == "device" and isinstance(value, str):
            yield where, value
        else:
            yield from devices_of(value, where)


def check_network(stage: Stage, memory_gb: float) -> None:
    """Raises ValueError for a network that cannot be trained here, whatever the batch.

    What activations and data take is not known before.
    """
    config = getattr(stage, "model", None)
    if not isinstance(config, WorldModelConfig | MagvitConfig):
        return
    n = config.least_parameters
    where = "this machine"
    if stage.resources.gpus and torch.cuda.is_available():
        where, memory_gb = "its GPU", torch.cuda.get_device_properties(0).total_memory / 1e9
    elif workers := getattr(stage, "workers", 1):
        sharded: Any = getattr(stage, "parallel", None)
        n *= 1 if sharded and sharded.strategy == "fsdp" else workers
    if (needed_gb := TRAINED_BYTES * n / 1e9) > memory_gb:
        raise ValueError(
            f"stage '{stage.name}': its network has over {n / 1e6:,.0f} million parameters in all "
            f"workers, {needed_gb:,.1f} GB in training without any data; {where} has "
            f"{memory_gb:.4g} GB. Choose a smaller one: {stage.name}.model"
        )
