"""Networks from files that `model.training.checkpoint` wrote, refused if they are other ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from model.published_files import check_finite
from model.training.checkpoint import load_model
from model.training.device import seeded
from storage.weights.ref import WeightsRef

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ConfigT = TypeVar("ConfigT")


def load_own(
    path: Path, build: Callable[[ConfigT], ModuleT], config: ConfigT, stage: str
) -> ModuleT:
    """The file's network, on the CPU.

    Raises ValueError with the stage's name for another config and for values that are not finite.
    """
    network, found = load_model(path, build, type(config))
    if found != config:
        raise ValueError(f"{stage}: {path} holds a network of {found}, the stage asks for {config}")
    check_finite(network.state_dict(), f"{stage}: {path}")
    return network


def new_or_started(
    build: Callable[[ConfigT], ModuleT],
    config: ConfigT,
    start_from: WeightsRef | None,
    seed: int,
    stage: str,
) -> ModuleT:
    """The network that a training starts with: that of `start_from`, or a random one by `seed`."""
    if start_from is not None:
        return load_own(start_from.resolve(), build, config, stage)
    with seeded(seed):
        return build(config)
