"""Devices and random states, for training and sampling."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators; restores the CPU's afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def step_generator(
    seed: int, index: int, role: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The noise of one batch: equal for equal numbers, independent for different ones.

    CPU noise is the same on any machine. A training draws on its own device, so that a GPU does not
    wait for noise; GPU noise is the same on GPUs of one kind.
    """
    mixed = np.random.SeedSequence((seed, index, role)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))
