"""The cost of a run, found by running the network on meta tensors: in seconds, without memory."""

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
    """Operations and memory for all clips together."""

    flops: int  # multiplications plus additions of convolutions, linear layers and attention
    peak_bytes: int  # of tensors alive at once, also weights and inputs, not kernels' workspace


@lru_cache(64)
def predict_cost(config: SpatialTrackerConfig, n_clips: int, n_frames: int, n_points: int) -> Cost:
    """The cost of tracking first-frame queries at the working size, without gradients, in float32.

    `n_points` includes support points (36 in `track_points` by default). Attention counts as if its
    scores were kept: fused kernels need less memory.
    """
    # Each further window costs the same: the first few are run, the others counted
    step = config.window // 2
    n_more = max(0, (n_frames - config.window - 1) // step - 1)
    shorter = measured_cost(config, n_clips, n_frames - n_more * step, n_points)
    if not n_more:
        return shorter
    longer = measured_cost(config, n_clips, n_frames - (n_more - 1) * step, n_points)
    return Cost(
        flops=shorter.flops + n_more * (longer.flops - shorter.flops),
        peak_bytes=shorter.peak_bytes + n_more * (longer.peak_bytes - shorter.peak_bytes),
    )


def measured_cost(config: SpatialTrackerConfig, n_clips: int, n_frames: int, n_points: int) -> Cost:
    """`predict_cost` by running every window: slow for long clips."""
    with torch.device("meta"):
        network = SpatialTracker(config)
        size = (config.working_height, config.working_width)
        frames = torch.empty(n_clips, n_frames, 3, *size)
        depth = torch.empty(n_clips, n_frames, *size)
        points = torch.empty(n_clips, n_points, 3)
    frame_of = torch.zeros(n_points, dtype=torch.long)
    flops: list[int] = []
    for iterations in (1, 2):
        counter = FlopCounterMode(display=False)
        memory = LiveBytes([*network.parameters(), frames, depth, points])
        with torch.no_grad(), counter, memory:
            output = network(frames, depth, frame_of, points, iterations=iterations)
        flops.append(counter.get_total_flops())
    # Further iterations cost as much as the second; their positions are kept, twice while stacked
    kept = 2 * sum(window.tracks[0].nbytes for window in output.windows)
    return Cost(
        flops=flops[0] + (config.iterations - 1) * (flops[1] - flops[0]),
        peak_bytes=memory.peak + max(0, config.iterations - 2) * kept,
    )


class LiveBytes(TorchDispatchMode):
    """Counts bytes of storage alive inside the `with`, now and at the peak."""

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
        storage = tensor.untyped_storage()  # shared by views; the same object while it is alive
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self.known.discard(key)
        self.now -= n_bytes
