"""Small trackers whose points move, and clips for them."""

import numpy as np
import torch
from golden_weights import golden_state
from torch import Tensor

from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.model import SpatialTracker

SMALL = SpatialTrackerConfig(
    window=6, iterations=2, working_height=64, working_width=64, encoder_widths=(8, 8, 8, 8),
    latent=16, hidden=32, heads=2, blocks=1, support_layers=2, support_heads=2, support_tokens=3,
    own_flags=True,
)  # fmt: skip
CALM = {  # as in the reference outputs: without these, refinement amplifies rounding
    "updateformer.flow_head.4.weight": lambda value: 0.05 * value,
    "updateformer.flow_head.4.bias": lambda value: 0.05 * value,
    "zeroMLPflow.weight": lambda value: 0.1 * value,
}


def small_tracker(
    kind: type[SpatialTracker] = SpatialTracker, config: SpatialTrackerConfig = SMALL
) -> SpatialTracker:
    """A tracker with pseudo-random weights by name and shape: each point moves by pixels."""
    network = kind(config)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(golden_state(shapes, CALM))
    return network.eval()


def clip(b: int = 1, t: int = 9, side: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth noise (0..255), and depth in 1..3."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(b * t, 4, side // 4, side // 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").unflatten(
        0, (b, t)
    )
    return 255 * fine[:, :, :3], 1 + 2 * fine[:, :, 3]


def first_frame_queries(grid: int, side: int = 64) -> np.ndarray:
    """(frame 0, x, y) at the centres of grid x grid equal cells, row by row."""
    centres = (np.arange(grid) + 0.5) / grid * side - 0.5
    x, y = np.meshgrid(centres, centres)
    return np.stack([np.zeros(grid**2), x.ravel(), y.ravel()], axis=1).astype(np.float32)


def queries(
    p: int = 12, b: int = 1, side: int = 64, last_frame: int = 0, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Query frames from 0 to `last_frame`, and points (x px, y px, depth)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(b, p, 3, generator=generator) * torch.tensor(
        [side - 1, side - 1, 2]
    ) + torch.tensor([0, 0, 1])
    return torch.randint(0, last_frame + 1, (p,), generator=generator), points


def query_grid(grid: int, side: int = 64) -> np.ndarray:
    """(p, 3) queries (frame 0, x, y) at the centres of grid x grid equal cells, row by row."""
    centres = (np.arange(grid) + 0.5) * side / grid - 0.5
    x, y = np.meshgrid(centres, centres)
    return np.stack([np.zeros(grid**2), x.ravel(), y.ravel()], axis=1).astype(np.float32)
