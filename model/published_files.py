"""Shared by all loaders of published checkpoints: reading a pickle's tensors, and checking them."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES_SHOWN = 3  # names listed in an error; the others are counted
BYTES_SHOWN = 24  # of a file that is no checkpoint
BEGINNINGS = (b"PK", b"\x80")  # of torch.save's files: zip archives, or pickles before version 1.6

Shapes = Mapping[str, tuple[int, ...]]


def read_tensors(path: str | Path, *, mmap: bool = False) -> Any:
    """The content of a checkpoint, on the CPU.

    `mmap` reads tensors when they are used, for files of which most is not needed. Raises
    ValueError if the file is damaged or holds more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes torch's reader fail in any way
        raise ValueError(
            f"{path}: damaged, or holds more than tensors, which is not read (weights_only=True): "
            f"{_reason(path, error)}. Fetch it again; if it is whole and you trust its source, "
            "save the state dict of torch.load(path, weights_only=False) to a new file once and "
            "use that"
        ) from error


def _reason(path: str | Path, error: Exception) -> str:
    """The file's first bytes if no checkpoint begins so, else the key line of torch's message."""
    with open(path, "rb") as file:
        start = file.read(BYTES_SHOWN)
    if not start.startswith(BEGINNINGS):
        return f"it begins with {start!r}, as no checkpoint does" if start else "it is empty"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    line = next((line for line in lines if "Unsupported" in line), lines[0]).rstrip(".")
    if isinstance(error, pickle.UnpicklingError | RuntimeError):
        return line
    return f"{type(error).__name__}, {line}"


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raises ValueError naming the first entry with NaN or infinite values."""
    for name, value in state.items():
        bad = 0 if torch.isfinite(value).all() else int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(
                f"{where}: {name} has {bad} of {value.numel()} values that are NaN or infinite: "
                "damaged, or from a training that diverged; fetch or make it again"
            )


def differences(found: Shapes, expected: Shapes) -> list[str]:
    """What is missing, left over or of another shape, first entries by name; empty if all fit."""
    reshaped = [
        f"{name} {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return [
        *_listed("missing", [name for name in expected if name not in found]),
        *_listed("not in this network", [name for name in found if name not in expected]),
        *_listed("of another shape", reshaped),
    ]


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"]
