"""How a frame being predicted sees the frames before it: by a KV cache, or by running them again.

Both give the same states. Frames are given by their numbers in tensors on the device, so that no
shape depends on how far a rollout is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.world.attention import TimeView, sees
from model.world.dual_branch import DualBranchWorldModel, HiddenStates


@dataclass(frozen=True)
class FrameTokens:
    """Token ids of frames; `depth` is None for a model without a depth branch."""

    rgb: Int[Tensor, "b t gh gw"]
    depth: Int[Tensor, "b t gh gw"] | None

    def __getitem__(self, frames: slice) -> "FrameTokens":
        return FrameTokens(
            self.rgb[:, frames], self.depth[:, frames] if self.depth is not None else None
        )

    def then(self, later: "FrameTokens") -> "FrameTokens":
        depth = None
        if self.depth is not None and later.depth is not None:
            depth = torch.cat([self.depth, later.depth], 1)
        return FrameTokens(torch.cat([self.rgb, later.rgb], 1), depth)

    def read(self, frames: Int[Tensor, " t"]) -> "FrameTokens":
        """The frames of these numbers, without a copy of the numbers to the CPU."""
        depth = self.depth.index_select(1, frames) if self.depth is not None else None
        return FrameTokens(self.rgb.index_select(1, frames), depth)

    def write(self, frames: Int[Tensor, " t"], new: "FrameTokens") -> None:
        """Overwrites the frames of these numbers, in place."""
        self.rgb.index_copy_(1, frames, new.rgb)
        if self.depth is not None and new.depth is not None:
            self.depth.index_copy_(1, frames, new.depth)


# (tokens of frames being filled, their cells still masked) -> final hidden states of these frames
Predict = Callable[[FrameTokens, Bool[Tensor, "b t gh gw"]], HiddenStates]


class KVCache:
    """Keys and values of finished frames, so that the model runs over the newest ones only.

    Frame p has slot p mod (n_frames + 1): enough for a new frame and the one before it to see all
    they may. A forward pass overwrites the slots of its frames; one over a frame without masked
    cells commits it.
    """

    def __init__(self, model: DualBranchWorldModel, actions: Float[Tensor, "b t *substeps a"]):
        self.model, self.actions = model, actions
        self.n_slots = model.config.n_frames + 1
        self.cache = model.new_cache(len(actions), self.n_slots)
        # Frame in each slot; at first a number too far back to be seen
        self.position_in = torch.full((self.n_slots,), -self.n_slots, device=actions.device)

    def commit(self, prompt: FrameTokens) -> None:
        """Fills the cache with known frames 0, 1, ...

        First as many at once as there are slots, then two at a time: these overwrite no slot of a
        frame that they still see.
        """
        n, stop = prompt.rgb.shape[1], 0
        while stop < n:
            start, stop = stop, min(n, stop + (2 if stop else self.n_slots))
            self._run(
                prompt[start:stop], None, torch.arange(start, stop, device=self.actions.device)
            )

    def predict_at(self, made: FrameTokens, at: Int[Tensor, " 1"]) -> Predict:
        """A predictor of frame `at`; its first call also commits the frame before, from `made`."""
        calls = 0

        def predict(new: FrameTokens, masked: Bool[Tensor, "b 1 gh gw"]) -> HiddenStates:
            nonlocal calls
            calls += 1
            if calls > 1:
                return self._run(new, masked, at)
            both = made.read(at - 1).then(new)
            return self._run(
                both, torch.cat([torch.zeros_like(masked), masked], 1), torch.cat([at - 1, at])
            )[-1:]

        return predict

    def _run(
        self,
        frames: FrameTokens,
        masked: Bool[Tensor, "b t gh gw"] | None,
        positions: Int[Tensor, " t"],
    ) -> HiddenStates:
        slots = positions % self.n_slots
        self.position_in.index_copy_(0, slots, positions)
        view = TimeView(
            positions, sees(positions, self.position_in, self.model.config.n_frames), slots
        )
        actions = self.actions.index_select(1, positions)
        return self.model(*as_pair(frames), actions, masked, view=view, cache=self.cache)


class FullRecompute:
    """Runs the model over all frames at every step: the slow reference for `KVCache`."""

    def __init__(self, model: DualBranchWorldModel, actions: Float[Tensor, "b t *substeps a"]):
        self.model, self.actions = model, actions

    def commit(self, prompt: FrameTokens) -> None:
        """Does nothing: no state is kept between calls."""

    def predict_at(self, made: FrameTokens, at: Int[Tensor, " 1"]) -> Predict:
        n = int(at)

        def predict(new: FrameTokens, masked: Bool[Tensor, "b 1 gh gw"]) -> HiddenStates:
            given = torch.zeros_like(made.rgb[:, :n], dtype=torch.bool)
            everything = made[:n].then(new)
            return self.model(
                *as_pair(everything), self.actions[:, : n + 1], torch.cat([given, masked], 1)
            )[-1:]

        return predict


def as_pair(tokens: FrameTokens) -> tuple[Tensor, Tensor | None]:
    return tokens.rgb, tokens.depth
