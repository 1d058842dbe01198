"""What a run will take: the network run on tensors without contents (meta device), in seconds and
without memory.
"""

import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.model import SpatialTracker


@dataclass(frozen=True, kw_only=True)
class Cost:
    """flops: multiplications and additions of convolutions, linear layers and attention, for all
    clips together. peak_bytes: most memory of tensors alive at once, weights and inputs included;
    kernels' workspace is not.
    """

    flops: int
    peak_bytes: int


@lru_cache(64)
def predict_cost(config: SpatialTrackerConfig, n_clips: int, n_frames: int, n_points: int) -> Cost:
    """The cost of tracking first-frame queries at the working size, without gradients, in float32.

    `n_points` includes support points (36 in `track_points` unless chosen otherwise). Attention
    counts as if its scores were kept: fused kernels need less memory.
    """
    with torch.device("meta"):
        network = SpatialTracker(config)
        size = (config.working_height, config.working_width)
        frames, depth = (
            torch.empty(n_clips, n_frames, 3, *size),
            torch.empty(n_clips, n_frames, *size),
        )
        points = torch.empty(n_clips, n_points, 3)
    frame_of = torch.zeros(n_points, dtype=torch.long)
    flops: list[int] = []
    for iterations in (1, 2):
        counter, memory = (
            FlopCounterMode(display=False),
            LiveBytes([*network.parameters(), frames, depth, points]),
        )
        with torch.no_grad(), counter, memory:
            output = network(frames, depth, frame_of, points, iterations=iterations)
        flops.append(counter.get_total_flops())
    # Further iterations are like the second, but for their positions, which are kept (twice, while
    # they are stacked).
    kept = 2 * sum(window.tracks[0].nbytes for window in output.windows)
    return Cost(
        flops=flops[0] + (config.iterations - 1) * (flops[1] - flops[0]),
        peak_bytes=memory.peak + max(0, config.iterations - 2) * kept,
    )


class LiveBytes(TorchDispatchMode):
    """Follows the storage that operations make inside the `with`: how much is alive, and the most
    that was.
    """

    def __init__(self, already: list[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()
        for tensor in already:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = (
            tensor.untyped_storage()
        )  # shared by views, and the same object as long as it lives
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self.known.discard(key)
        self.now -= n_bytes
