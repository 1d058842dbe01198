"""What the world model is trained on: clips of tokens with their actions and point tracks."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.training.parallel import ALONE, Workers


@dataclass(frozen=True, kw_only=True)
class WorldBatch:
    """Clips of tokenised frames.

    Tokens are 18-bit ids. `actions[t]` leads INTO frame t: the action (or its sub-steps) between
    frames t-1 and t, normalised by `ActionStats`; `actions[0]` is the pose at the clip's start, or
    zeros. Tracks are (x, y) as shares of the frame's width and height, in [0, 1); a point outside
    counts as not visible. They are the *selected* tracks of L_keypoint and L_attention (see
    `keypoints.select_active_tracks`); `p` may be 0.
    """

    rgb_tokens: Int[Tensor, "b t gh gw"]
    depth_tokens: Int[Tensor, "b t gh gw"]
    actions: Float[Tensor, "b t *substeps a"]
    tracks: Float[Tensor, "b t p 2"]
    visible: Bool[Tensor, "b t p"]
    clip_ids: list[str]
    workers: Workers = ALONE  # the ranks of the global batch; these clips are this rank's shard

    def to(self, device: torch.device | str) -> "WorldBatch":
        return replace(
            self, **{name: x.to(device, non_blocking=True) for name, x in self._tensors().items()}
        )

    def pinned(self) -> "WorldBatch":
        """The batch in pinned memory, from which copies to a GPU are asynchronous."""
        return replace(self, **{name: x.pin_memory() for name, x in self._tensors().items()})

    def first(self, n: int) -> "WorldBatch":
        """The first n clips."""
        tensors = {name: x[:n] for name, x in self._tensors().items()}
        return replace(self, **tensors, clip_ids=self.clip_ids[:n])

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True, kw_only=True)
class ActionStats:
    """Mean and standard deviation of each action dimension over a training set."""

    mean: Float[Tensor, " a"]
    std: Float[Tensor, " a"]

    @classmethod
    def measure(cls, actions: Float[Tensor, "*any a"]) -> "ActionStats":
        """Statistics over all leading axes; the std of a constant dimension is 1 (it becomes 0)."""
        flat = actions.reshape(-1, actions.shape[-1]).double()
        std = flat.std(0, correction=0)
        return cls(mean=flat.mean(0).float(), std=torch.where(std > 1e-6, std, 1.0).float())

    @property
    def varies(self) -> Bool[Tensor, " a"]:
        """The dimensions that are not constant: `measure` gives those a deviation of exactly 1."""
        return self.std != 1.0

    def normalise(self, actions: Float[Tensor, "*any a"]) -> Float[Tensor, "*any a"]:
        return (actions - self.mean.to(actions)) / self.std.to(actions)

    def restore(self, actions: Float[Tensor, "*any a"]) -> Float[Tensor, "*any a"]:
        """The inverse of `normalise`."""
        return actions * self.std.to(actions) + self.mean.to(actions)
