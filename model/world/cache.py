"""What a frame being predicted sees of the frames before it: cached keys and values, or all frames
run again.

Both give the same states. Frames are named by their true numbers, in tensors on the device, so that
no shape depends on how far a rollout is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.world.attention import TimeView, sees
from model.world.dual_branch import DualBranchWorldModel, Hidden


@dataclass(frozen=True)
class Tokens:
    """Token ids of frames; `depth` is None for a model without a depth branch."""

    rgb: Int[Tensor, "b t gh gw"]
    depth: Int[Tensor, "b t gh gw"] | None

    def __getitem__(self, frames: slice) -> "Tokens":
        return Tokens(
            self.rgb[:, frames], self.depth[:, frames] if self.depth is not None else None
        )

    def then(self, later: "Tokens") -> "Tokens":
        depth = None
        if self.depth is not None and later.depth is not None:
            depth = torch.cat([self.depth, later.depth], 1)
        return Tokens(torch.cat([self.rgb, later.rgb], 1), depth)

    def read(self, frames: Int[Tensor, " t"]) -> "Tokens":
        """The frames of these numbers, which stay on the device."""
        depth = self.depth.index_select(1, frames) if self.depth is not None else None
        return Tokens(self.rgb.index_select(1, frames), depth)

    def write(self, frames: Int[Tensor, " t"], new: "Tokens") -> None:
        """Puts new tokens into the frames of these numbers, in place."""
        self.rgb.index_copy_(1, frames, new.rgb)
        if self.depth is not None and new.depth is not None:
            self.depth.index_copy_(1, frames, new.depth)


# (frames so far filled, cells still hidden) -> final hidden states of these frames
Predict = Callable[[Tokens, Bool[Tensor, "b t gh gw"]], Hidden]


class CachedPast:
    """Runs the model over the newest frames only.

    Frame p has slot p mod (n_frames + 1): enough for a new frame and the one before it to see all
    they may. A frame's slot holds what its latest pass made, so a pass over the finished frame
    settles it.
    """

    def __init__(self, model: DualBranchWorldModel, actions: Float[Tensor, "b t *substeps a"]):
        self.model, self.actions = model, actions
        self.n_slots = model.config.n_frames + 1
        self.cache = model.new_cache(len(actions), self.n_slots)
        self.position_in = torch.full(
            (self.n_slots,), -self.n_slots, device=actions.device
        )  # too long ago to be seen

    def settle(self, prompt: Tokens) -> None:
        """Known frames 0, 1, ...: at first as many at once as there are slots, then those that wipe
        out none in use.
        """
        n, stop = prompt.rgb.shape[1], 0
        while stop < n:
            start, stop = stop, min(n, stop + (2 if stop else self.n_slots))
            self._run(
                prompt[start:stop], None, torch.arange(start, stop, device=self.actions.device)
            )

    def predict_at(self, made: Tokens, at: Int[Tensor, " 1"]) -> Predict:
        """For frame number `at`: its first pass also settles the frame before it, the last one in
        `made`.
        """
        passes = 0

        def predict(new: Tokens, hidden: Bool[Tensor, "b 1 gh gw"]) -> Hidden:
            nonlocal passes
            passes += 1
            if passes > 1:
                return self._run(new, hidden, at)
            both = made.read(at - 1).then(new)
            return self._run(
                both, torch.cat([torch.zeros_like(hidden), hidden], 1), torch.cat([at - 1, at])
            )[-1:]

        return predict

    def _run(
        self, frames: Tokens, hidden: Bool[Tensor, "b t gh gw"] | None, positions: Int[Tensor, " t"]
    ) -> Hidden:
        slots = positions % self.n_slots
        self.position_in.index_copy_(0, slots, positions)
        view = TimeView(
            positions, sees(positions, self.position_in, self.model.config.n_frames), slots
        )
        actions = self.actions.index_select(1, positions)
        return self.model(*as_pair(frames), actions, hidden, view=view, cache=self.cache)


class RecomputedPast:
    """Runs the model over all frames in every pass: slow, plain, and what `CachedPast` must equal."""

    def __init__(self, model: DualBranchWorldModel, actions: Float[Tensor, "b t *substeps a"]):
        self.model, self.actions = model, actions

    def settle(self, prompt: Tokens) -> None:
        """Nothing is kept from pass to pass."""

    def predict_at(self, made: Tokens, at: Int[Tensor, " 1"]) -> Predict:
        n = int(at)

        def predict(new: Tokens, hidden: Bool[Tensor, "b 1 gh gw"]) -> Hidden:
            given = torch.zeros_like(made.rgb[:, :n], dtype=torch.bool)
            everything = made[:n].then(new)
            return self.model(
                *as_pair(everything), self.actions[:, : n + 1], torch.cat([given, hidden], 1)
            )[-1:]

        return predict


def as_pair(tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    return tokens.rgb, tokens.depth
