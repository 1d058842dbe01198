"""Devices and random states, for training and sampling."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
from annotated_types import Predicate


def names_a_device(text: str) -> bool:
    """cpu, cuda or cuda:N."""
    return re.fullmatch(r"cpu|cuda(:\d{1,3})?", text) is not None


DeviceName = Annotated[str, Predicate(names_a_device)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators; restores the CPU's afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one, else the CPU.

    Raises ValueError if it is none of those, or if this machine has no such GPU.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not names_a_device(name):
        raise ValueError(f"device {name!r}: expected {names_a_device.__doc__}")
    device, n_gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        there = f"cuda:0 to cuda:{n_gpus - 1}" if n_gpus else "none"
        raise ValueError(
            f"device {name!r}: torch finds {n_gpus} CUDA devices on this machine ({there}); use "
            "one of these, or cpu"
        )
    return device


def step_generator(
    seed: int, index: int, role: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The noise of one batch: equal for equal numbers, independent for different ones.

    CPU noise is the same on any machine. A training draws on its own device, so that a GPU does not
    wait for noise; GPU noise is the same on GPUs of one kind.
    """
    mixed = np.random.SeedSequence((seed, index, role)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))
