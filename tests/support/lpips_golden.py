"""The seeded images and weights of the `lpips` package's distances in test_lpips.py."""

import torch
from golden_weights import golden_state
from torch import Tensor

TRUNK_SHAPES = {
    "features.0.weight": (64, 3, 11, 11),
    "features.0.bias": (64,),
    "features.3.weight": (192, 64, 5, 5),
    "features.3.bias": (192,),
    "features.6.weight": (384, 192, 3, 3),
    "features.6.bias": (384,),
    "features.8.weight": (256, 384, 3, 3),
    "features.8.bias": (256,),
    "features.10.weight": (256, 256, 3, 3),
    "features.10.bias": (256,),
}
LINEAR_SHAPES = {
    f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))
}


def trunk_weights() -> dict[str, Tensor]:
    return golden_state(TRUNK_SHAPES)


def linear_weights() -> dict[str, Tensor]:
    return {name: value.abs() for name, value in golden_state(LINEAR_SHAPES).items()}


def image_pairs() -> tuple[Tensor, Tensor]:
    """Smooth waves in [-1, 1] and the same with another colour and a box; 3 pairs of 65 x 80 px."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 65), torch.linspace(0, 7, 80), indexing="ij")
    phase = torch.arange(9).view(3, 3, 1, 1)
    images = torch.sin(x + 0.7 * phase) * torch.cos(y - 0.4 * phase)
    others = 0.8 * images + 0.1 * torch.sin(3 * x * y / 7)
    others[:, :, 20:40, 30:50] = 0.5
    return images, others
