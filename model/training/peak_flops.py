"""The measured rate of this machine's matrix products: a training reaches a share of it (MFU)."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

TRIES = 10
# Sides of the matrices: large enough for the best rate, some milliseconds a product
SIZES = {"cpu": 512, "cuda": 8192}

# FLOP/s that vendors state for dense bfloat16 products, by a part of the GPU's name
DATA_SHEETS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12, "A800": 312e12}


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The rate of matrix products of one dtype on one device."""

    flops: float  # multiplications plus additions a second, as is usual for MFU
    what: str  # text for a report: which products, on which device
    data_sheet: float | None = None  # the vendor's figure; None if not known


def measure_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best rate of a few square products, with this process's number of threads."""
    size = SIZES[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = min(_timed(a, b) for _ in range(1 + TRIES))  # the first one is a warm-up
    kind = str(dtype).removeprefix("torch.")
    name = device_name(device)
    stated = [
        rate for part, rate in DATA_SHEETS.items() if part in name and dtype == torch.bfloat16
    ]
    what = f"{kind} products of {size} x {size} on {name}"
    return Peak(flops=2 * size**3 / seconds, what=what, data_sheet=stated[0] if stated else None)


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    _synchronize(a.device)
    started = time.perf_counter()
    torch.mm(a, b)
    _synchronize(a.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
