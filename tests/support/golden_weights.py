"""Reference outputs (in `../shared/fixtures`, outside the repository) and their weights.

The references were computed with pseudo-random weights that depend only on an entry's name and
shape, so that any implementation with the published names can use the same ones.
"""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from repository import SHARED
from torch import Tensor, nn

FIXTURES = SHARED / "fixtures"

# Changes one network needs to its float64 values, by entry name: for Video Depth Anything and
# SpatialTracker.
Changes = Mapping[str, Callable[[np.ndarray], np.ndarray]]


def load_fixture(name: str) -> dict[str, np.ndarray]:
    """Arrays of a reference file; skips the test if the folder is absent."""
    path = FIXTURES / name
    if not path.is_file():
        pytest.skip(f"reference outputs absent: {path}")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def sinusoid_table(length: int, channels: int) -> np.ndarray:
    """Sines in even, cosines in odd channels of frequencies 1 to 1/10000; (1, length, channels)."""
    angle = np.arange(length)[:, None] * np.exp(
        -np.arange(0, channels, 2) * np.log(10000.0) / channels
    )
    table = np.empty((1, length, channels))
    table[0, :, 0::2], table[0, :, 1::2] = np.sin(angle), np.cos(angle)
    return table


def golden_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float64 value of the entry with this published name."""
    last = name.rsplit(".", 1)[-1]
    if last == "pe":
        return sinusoid_table(shape[1], shape[2])
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if last in ("pos_embed", "cls_token", "mask_token"):
        return 0.5 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if last in ("weight", "gamma") else 0.1 * z
    return z / np.sqrt(np.prod(shape[1:]))


def golden_state(
    shapes: Mapping[str, tuple[int, ...]], changes: Changes | None = None
) -> dict[str, Tensor]:
    """A float32 state dict for these published names and shapes."""
    changes = changes or {}
    unknown = changes.keys() - shapes.keys()
    assert not unknown, f"changes for entries that do not exist: {sorted(unknown)}"
    state = {}
    for name, shape in shapes.items():
        value = golden_value(name, tuple(shape))
        state[name] = torch.from_numpy(changes.get(name, lambda v: v)(value).astype(np.float32))
    return state


def with_golden_weights(network: nn.Module, changes: Changes | None = None) -> nn.Module:
    """The network, in evaluation mode, with the references' weights for its (published) names."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(golden_state(shapes, changes))
    return network.eval()


def activation_statistics(
    network: nn.Module, names: list[str], run: Callable[[], object]
) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """Shape, mean and population std (float64) of modules' first outputs during `run()`."""
    seen: dict[str, tuple[tuple[int, ...], float, float]] = {}

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            values = output.detach().double()
            seen.setdefault(
                name, (tuple(output.shape), values.mean().item(), values.std(correction=0).item())
            )

        return network.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen
