"""LPIPS, version 0.1 with the AlexNet trunk (Zhang et al. 2018, arXiv:1801.03924).

Two batches of images in [-1, 1] in, one distance per pair out. The user provides the weights:
torchvision's AlexNet and the linear heads of the `lpips` package. Nothing is downloaded; without
the files, an error says where they come from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIN_SIDE = 31  # px: below this the trunk's second pooling has no output

TRUNK_SOURCE = "torchvision's AlexNet ImageNet weights (alexnet-owt-7be5be79.pth)"
LINEAR_SOURCE = "the lpips package's v0.1 linear heads (lpips/weights/v0.1/alex.pth)"

# ImageNet's mean and standard deviation for images in [-1, 1], rounded as in LPIPS
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SMALLEST_NORM = 1e-10  # keeps positions without features finite

TAPS = (1, 4, 7, 9, 11)  # the layers of `features`, all ReLUs, whose outputs are compared
TAP_WIDTHS = (64, 192, 384, 256, 256)


class Lpips(nn.Module):
    """The distance network: `features` numbered as in torchvision, `linear` with a head per tap."""

    shift: Tensor
    scale: Tensor

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.linear = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in TAP_WIDTHS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, images: Float[Tensor, "b c h w"], others: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair; 0 for equal images.

        Squared differences of unit-length features are weighted by channel, averaged over positions
        and summed over the five taps. Images are in [-1, 1] and at least 31 px a side.
        """
        if min(images.shape[-2:]) < MIN_SIDE:
            size = tuple(images.shape[-2:])
            raise ValueError(f"images of {size} px: LPIPS needs sides of at least {MIN_SIDE} px")
        total = images.new_zeros(images.shape[0])
        pairs = zip(self.taps(images), self.taps(others), self.linear, strict=True)
        for feature, other, linear in pairs:
            difference = (unit_length(feature) - unit_length(other)).square()
            total = total + linear(difference).mean(dim=(1, 2, 3))
        return total

    def taps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """The trunk's five feature maps."""
        h = (images - self.shift) / self.scale
        found = []
        for i, layer in enumerate(self.features):
            h = layer(h)
            if i in TAPS:
                found.append(h)
        return found


def unit_length(features: Float[Tensor, "b d i j"]) -> Float[Tensor, "b d i j"]:
    """Each position's features scaled to length 1; zeros stay zero, with a zero gradient."""
    norm = features.square().sum(dim=1, keepdim=True).clamp(min=SMALLEST_NORM**2).sqrt()
    return features / (norm + SMALLEST_NORM)


def load_lpips(trunk: str | Path, linear: str | Path) -> Lpips:
    """LPIPS with the user's two weight files, on the CPU and frozen.

    Raises FileNotFoundError or ValueError, naming the file and what was expected, if one is missing
    or is another file.
    """
    state = lpips_state(_read(trunk, TRUNK_SOURCE), _read(linear, LINEAR_SOURCE))
    network = Lpips()
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def lpips_state(trunk: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of torchvision's (`features.0.weight`) and lpips's (`lin0.model.1.weight`)."""
    with torch.device("meta"):
        wanted = Lpips().state_dict()
    state = {}
    for name, value in wanted.items():
        is_trunk = name.startswith("features.")
        source, key = (
            (trunk, name) if is_trunk else (linear, f"lin{name.split('.')[1]}.model.1.weight")
        )
        origin = TRUNK_SOURCE if is_trunk else LINEAR_SOURCE
        if key not in source:
            raise ValueError(
                f"LPIPS weights: no entry {key!r}; expected {origin}, "
                f"found {sorted(source)[:3]} ..."
            )
        if source[key].shape != value.shape:
            raise ValueError(
                f"LPIPS weights: {key!r} has shape {tuple(source[key].shape)}, expected "
                f"{tuple(value.shape)}: use {origin}"
            )
        state[name] = source[key].float()
    return state


def _read(path: str | Path, source: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; LPIPS needs {source}, copied there")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, expected a state dict: {source}")
    return content
