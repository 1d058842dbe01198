"""A TorchScript file that is called as I3D is, with 400 features of the mean colours: for FVD's
tests.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class TinyI3d(nn.Module):
    """Says with `size` how many features it has, and refuses to run otherwise than I3D is run."""

    def __init__(self, size: int = 400):
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        self.head = nn.Parameter(torch.randn(6, size, generator=noise) / 100)

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        assert rescale and resize and return_features
        assert x.dim() == 5 and x.size(1) == 3
        assert bool((x == x.round()).all()) and bool((x >= 0).all()) and bool((x <= 255).all())
        first, last = x[:, :, 0].mean((2, 3)), x.mean((2, 3, 4))
        return torch.cat([first, last], dim=1) @ self.head


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def write_script(path: Path, network: nn.Module | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network or TinyI3d()).save(str(path))
    return path
