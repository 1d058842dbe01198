"""Generation: known frames and actions in, the frames after them out.

A frame is filled by MaskGIT (arXiv:2202.04200): all its cells start hidden, each pass predicts all hidden cells, some
are kept, and the rest are predicted again. Frames before it do not depend on it, so their time keys and values are kept
in a cache. A frame's last pass still had hidden cells; its true keys and values are made together with the first pass
over the next frame, which costs no pass of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.world.attention import TimeView, sees, two_stream_view
from model.world.config import SamplingConfig
from model.world.dual_branch import DualBranchWorldModel, Hidden, join_factors, split_factors


@dataclass(frozen=True)
class Tokens:
    """Token ids of frames; `depth` is None for a model without a depth branch."""

    rgb: Int[Tensor, "b t gh gw"]
    depth: Int[Tensor, "b t gh gw"] | None

    def __getitem__(self, frames: slice) -> "Tokens":
        return Tokens(self.rgb[:, frames], self.depth[:, frames] if self.depth is not None else None)

    def then(self, later: "Tokens") -> "Tokens":
        depth = None
        if self.depth is not None and later.depth is not None:
            depth = torch.cat([self.depth, later.depth], 1)
        return Tokens(torch.cat([self.rgb, later.rgb], 1), depth)


# (frames so far filled, cells still hidden) -> final hidden states of these frames
Predict = Callable[[Tokens, Bool[Tensor, "b t gh gw"]], Hidden]


@torch.no_grad()
def rollout(
    model: DualBranchWorldModel,
    prompt: Tokens,
    actions: Float[Tensor, "b t *substeps a"],
    config: SamplingConfig,
    generator: torch.Generator,
    *,
    use_cache: bool = True,
) -> Tokens:
    """Free-running prediction: all `t` frames, the prompt's as given and the others one by one.

    Runs longer than the model's `n_frames` slide: each frame sees the `n_frames` up to itself. `use_cache=False`
    recomputes all frames in every pass, which gives the same tokens at many times the cost.
    """
    n_frames, n_prompt = actions.shape[1], prompt.rgb.shape[1]
    if not 1 <= n_prompt < n_frames:
        raise ValueError(f"{n_prompt} prompt frames and {n_frames} actions: expected 1 or more, and fewer than actions")
    if model.config.time_positions == "learned" and n_frames > model.config.n_frames:
        raise ValueError(f"{n_frames} frames, but learned time positions end at {model.config.n_frames}; use 'rotary'")
    past = _CachedPast(model, actions) if use_cache else _RecomputedPast(model, actions)
    frames = prompt
    for _ in range(n_prompt, n_frames):
        new = fill(model, past.predict_after(frames), _blank(frames[:1], model), config, generator)
        frames = frames.then(new)
    return frames


@torch.no_grad()
def teacher_forced(
    model: DualBranchWorldModel,
    clip: Tokens,
    actions: Float[Tensor, "b t *substeps a"],
    config: SamplingConfig,
    generator: torch.Generator,
) -> Tokens:
    """Every frame from 1 on, each predicted from the true frames before it; t - 1 frames.

    All are filled at once: the true frames' keys and values stand in the cache, and a frame being filled sees those of
    earlier frames and itself.
    """
    n = clip.rgb.shape[1] - 1
    both = two_stream_view(n, model.config.n_frames, clip.rgb.device)
    assert both.mask is not None
    cache, slots = model.new_cache(2 * n), torch.arange(2 * n, device=clip.rgb.device)
    known = TimeView(both.positions[:n], both.mask[:n, :n], slots[:n])
    new = TimeView(both.positions[n:], both.mask[n:], slots[n:])
    model(*_pair(clip[:n]), actions[:, :n], view=known, cache=cache)

    def predict(frames: Tokens, hidden: Bool[Tensor, "b t gh gw"]) -> Hidden:
        return model(*_pair(frames), actions[:, 1:], hidden, view=new, cache=cache)

    return fill(model, predict, _blank(clip[1:], model), config, generator)


def fill(
    model: DualBranchWorldModel, predict: Predict, blank: Tokens, config: SamplingConfig, generator: torch.Generator
) -> Tokens:
    """Fill frames whose cells are all hidden, in `config.n_steps` passes.

    A cell is kept in both branches at once. After pass i of n, cos(πi/2n) of the cells are hidden again: random ones,
    or those whose drawn tokens (of both branches together) the model thinks least likely.
    """
    tokens, hidden = blank, torch.ones_like(blank.rgb, dtype=torch.bool)
    n_cells = model.config.n_cells
    for i in range(1, config.n_steps + 1):
        states = predict(tokens, hidden)
        rgb_logits = model.rgb.logits(states.rgb)
        rgb = torch.where(hidden, draw(rgb_logits, config, generator).view_as(hidden), tokens.rgb)
        depth = depth_logits = None
        if model.depth is not None and states.depth is not None and tokens.depth is not None:
            depth_logits = model.depth.logits(states.depth)
            depth = torch.where(hidden, draw(depth_logits, config, generator).view_as(hidden), tokens.depth)
        tokens = Tokens(rgb, depth)
        if i == config.n_steps:
            break
        if config.order == "random":
            score = _uniform(hidden.flatten(2), generator)
        else:
            score = log_probability(rgb_logits, rgb.flatten(2))
            if depth is not None and depth_logits is not None:
                score = score + log_probability(depth_logits, depth.flatten(2))
        score = score.masked_fill(~hidden.flatten(2), math.inf)  # kept cells stay kept
        n_again = int(n_cells * math.cos(math.pi / 2 * i / config.n_steps))
        again = score.topk(n_again, dim=-1, largest=False).indices
        hidden = torch.zeros_like(hidden.flatten(2)).scatter_(-1, again, True).view_as(hidden)
    return tokens


def draw(logits: Float[Tensor, "*any 2 v"], config: SamplingConfig, generator: torch.Generator) -> Int[Tensor, "*any"]:
    """A token id per cell, its two factors drawn independently."""
    if config.temperature == 0:
        factors = logits.argmax(-1)
    else:
        scores = logits.float() / config.temperature
        if config.top_k is not None:
            scores = scores.masked_fill(scores < scores.topk(config.top_k, dim=-1).values[..., -1:], -math.inf)
        # argmax of scores plus Gumbel noise draws from their softmax; the noise is finite for any uniform draw
        uniform = _uniform(scores, generator).clamp(1e-20, 1 - 2**-24)
        factors = (scores - torch.log(-torch.log(uniform))).argmax(-1)
    return join_factors(factors)


def log_probability(logits: Float[Tensor, "*any 2 v"], ids: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Of whole tokens, under the model itself: at temperature 1, whatever they were drawn at."""
    factors = split_factors(ids)[..., None]
    return logits.float().log_softmax(-1).gather(-1, factors).sum((-1, -2))


class _CachedPast:
    """Runs the model over the newest frames only.

    Frame p has slot p mod (n_frames + 1): enough for a new frame and the one before it to see all they may. A frame's
    slot holds what its latest pass made, so a pass over the finished frame settles it.
    """

    def __init__(self, model: DualBranchWorldModel, actions: Tensor):
        self.model, self.actions = model, actions
        self.window, self.n_slots = model.config.n_frames, model.config.n_frames + 1
        self.cache = model.new_cache(self.n_slots)
        self.position_in = torch.full((self.n_slots,), -self.n_slots, device=actions.device)
        self.n_settled = 0

    def predict_after(self, frames: Tokens) -> Predict:
        n_known = frames.rgb.shape[1]
        while n_known + 1 - self.n_settled > self._room():  # a prompt longer than the window
            self._run(frames[self.n_settled : self.n_settled + self._room() - 1], None, self.n_settled)
            self.n_settled += self._room() - 1

        def predict(new: Tokens, hidden: Bool[Tensor, "b 1 gh gw"]) -> Hidden:
            unsettled = frames[self.n_settled : n_known]
            given = torch.zeros_like(unsettled.rgb, dtype=torch.bool)
            states = self._run(unsettled.then(new), torch.cat([given, hidden], 1), self.n_settled)
            self.n_settled = n_known
            return states[-1:]

        return predict

    def _room(self) -> int:
        """Frames that one pass can hold without writing over what they must see."""
        return 2 if self.n_settled else self.n_slots

    def _run(self, frames: Tokens, hidden: Bool[Tensor, "b t gh gw"] | None, start: int) -> Hidden:
        stop = start + frames.rgb.shape[1]
        positions = torch.arange(start, stop, device=frames.rgb.device)
        slots = positions % self.n_slots
        self.position_in[slots] = positions
        mask = sees(positions, self.position_in[: min(stop, self.n_slots)], self.window)
        view = TimeView(positions, mask, slots)
        return self.model(*_pair(frames), self.actions[:, start:stop], hidden, view=view, cache=self.cache)


class _RecomputedPast:
    """Runs the model over all frames in every pass: slow, plain, and what `_CachedPast` must equal."""

    def __init__(self, model: DualBranchWorldModel, actions: Tensor):
        self.model, self.actions = model, actions

    def predict_after(self, frames: Tokens) -> Predict:
        def predict(new: Tokens, hidden: Bool[Tensor, "b 1 gh gw"]) -> Hidden:
            everything = frames.then(new)
            given = torch.zeros_like(frames.rgb, dtype=torch.bool)
            actions = self.actions[:, : everything.rgb.shape[1]]
            return self.model(*_pair(everything), actions, torch.cat([given, hidden], 1))[-1:]

        return predict


def _pair(tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    return tokens.rgb, tokens.depth


def _blank(like: Tokens, model: DualBranchWorldModel) -> Tokens:
    return Tokens(torch.zeros_like(like.rgb), torch.zeros_like(like.rgb) if model.depth is not None else None)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform draws of the same shape, made on the generator's device so that a seed means the same anywhere."""
    return torch.rand(like.shape, generator=generator, device=generator.device).to(like.device)
