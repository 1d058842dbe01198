"""Generation: known frames and actions in, the frames after them out.

A frame is filled by MaskGIT (arXiv:2202.04200): all its cells start masked, each step predicts all
masked cells and keeps some of them. Earlier frames do not depend on it, so their keys and values of
time attention stay in a KV cache. The last step over a frame still sees masked cells; the finished
frame is committed to the cache in the same forward pass as the first step over the next frame. So n
steps cost n forward passes over n + 1 frames in all, however long the rollout is.

What changes from frame to frame is in tensors on the device, and nothing is read back. So the CPU
never waits for the GPU inside a rollout, and all frames have the shapes of the first: one compiled
block, or one CUDA graph, serves all of them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.world.attention import TimeView, two_stream_view
from model.world.cache import FrameTokens, FullRecompute, KVCache, Predict, as_pair
from model.world.config import SamplingConfig
from model.world.dual_branch import DualBranchWorldModel, HiddenStates, join_factors, split_factors


@torch.no_grad()
def rollout(
    model: DualBranchWorldModel,
    prompt: FrameTokens,
    actions: Float[Tensor, "b t *substeps a"],
    config: SamplingConfig,
    generator: torch.Generator,
    *,
    use_cache: bool = True,
    cuda_graph: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> FrameTokens:
    """All `t` frames: the prompt's as given, the others predicted one by one, free-running.

    Rollouts longer than the model's `n_frames` slide: each frame sees the `n_frames` up to itself.
    `use_cache=False` recomputes all frames at every step, which gives the same tokens at many times
    the cost.

    Noise is drawn on the generator's device: a CPU generator draws the same on any machine, a GPU
    one is faster where the temperature is not 0. `cuda_graph` launches all kernels of a frame at
    once; small batches gain most from it. `on_frame` is called with each new frame's number when
    its work is queued.
    """
    n_frames, n_prompt = actions.shape[1], prompt.rgb.shape[1]
    if not 1 <= n_prompt < n_frames:
        raise ValueError(
            f"{n_prompt} prompt frames and {n_frames} actions: expected 1 or more prompt frames, "
            "and fewer than actions"
        )
    model.check_length(n_frames)
    if cuda_graph and not (use_cache and actions.is_cuda):
        raise ValueError(
            "cuda_graph: expected a model on a GPU and its cache, found "
            f"{actions.device}, {use_cache=}"
        )
    actions = actions.to(model.rgb.head.weight.dtype)
    history = KVCache(model, actions) if use_cache else FullRecompute(model, actions)
    next_frame = _NextFrame(model, history, prompt, n_frames, config, generator)
    step: Callable[[], None] = next_frame
    for t in range(n_prompt, n_frames):
        step()
        if cuda_graph and t == n_prompt:  # the first frame has warmed up what a capture needs
            step = _captured(next_frame, generator)
        if on_frame is not None:
            on_frame(t)
    return next_frame.made


@torch.no_grad()
def teacher_forced(
    model: DualBranchWorldModel,
    clip: FrameTokens,
    actions: Float[Tensor, "b t *substeps a"],
    config: SamplingConfig,
    generator: torch.Generator,
) -> FrameTokens:
    """Frames 1 ... t-1, each predicted from the true frames before it.

    All are filled at once: the cache holds the true frames' keys and values, and a frame being
    filled sees those of earlier frames and itself.
    """
    b, n = len(clip.rgb), clip.rgb.shape[1] - 1
    model.check_length(n + 1)
    both = two_stream_view(n, model.config.n_frames, clip.rgb.device)
    assert both.mask is not None
    cache, slots = model.new_cache(b, 2 * n), torch.arange(2 * n, device=clip.rgb.device)
    known = TimeView(both.positions[:n], both.mask[:n, :n], slots[:n])
    new = TimeView(both.positions[n:], both.mask[n:], slots[n:])
    model(*as_pair(clip[:n]), actions[:, :n], view=known, cache=cache)

    def predict(frames: FrameTokens, masked: Bool[Tensor, "b t gh gw"]) -> HiddenStates:
        return model(*as_pair(frames), actions[:, 1:], masked, view=new, cache=cache)

    orders = draw_orders(config, (b, n, model.config.n_cells), generator, clip.rgb.device)
    return fill(model, predict, _blank(clip[1:], model), config, orders, generator)


def fill(
    model: DualBranchWorldModel,
    predict: Predict,
    blank: FrameTokens,
    config: SamplingConfig,
    orders: Float[Tensor, "k b t s"],
    generator: torch.Generator,
) -> FrameTokens:
    """Tokens of frames whose cells are all masked at first, filled in `config.n_steps` steps.

    A cell is kept in both branches at once. After step i of n, cos(πi/2n) of the cells are masked
    again, rounded up: random ones (those lowest in `orders[i]`), or those whose drawn tokens, of
    both branches together, the model thinks least likely.
    """
    tokens, masked = blank, torch.ones_like(blank.rgb, dtype=torch.bool)
    for i in range(1, config.n_steps + 1):
        states = predict(tokens, masked)
        rgb_logits = model.rgb.logits(states.rgb)
        rgb = torch.where(masked, draw(rgb_logits, config, generator).view_as(masked), tokens.rgb)
        depth = depth_logits = None
        if model.depth is not None and states.depth is not None and tokens.depth is not None:
            depth_logits = model.depth.logits(states.depth)
            depth = torch.where(
                masked, draw(depth_logits, config, generator).view_as(masked), tokens.depth
            )
        tokens = FrameTokens(rgb, depth)
        if i == config.n_steps:
            break
        if config.order == "random":
            score = orders[i - 1]
        else:
            score = log_probability(rgb_logits, rgb.flatten(2))
            if depth is not None and depth_logits is not None:
                score = score + log_probability(depth_logits, depth.flatten(2))
        score = score.masked_fill(~masked.flatten(2), math.inf)  # kept cells stay kept
        n_again = n_masked_after(i, config.n_steps, model.config.n_cells)
        again = score.topk(n_again, dim=-1, largest=False).indices
        masked = torch.zeros_like(masked.flatten(2)).scatter_(-1, again, True).view_as(masked)
    return tokens


def n_masked_after(i: int, n_steps: int, n_cells: int) -> int:
    """n_cells cos(πi/2n), rounded up after the error of floating point is taken off: cos 60° is
    a half, and floats make it a little more.
    """
    return math.ceil(round(n_cells * math.cos(math.pi / 2 * i / n_steps), 9))


def draw_orders(
    config: SamplingConfig, cells: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Float[Tensor, "k *cells"]:
    """Uniform scores of all cells for each step but the last; none if confidence decides."""
    k = config.n_steps - 1 if config.order == "random" else 0
    return _uniform((k, *cells), generator, device)


def draw(
    logits: Float[Tensor, "*any 2 v"], config: SamplingConfig, generator: torch.Generator
) -> Int[Tensor, "*any"]:
    """A token id per cell, its two factors drawn independently."""
    if config.temperature == 0:
        factors = logits.argmax(-1)
    else:
        scores = logits.float() / config.temperature
        if config.top_k is not None:
            scores = scores.masked_fill(
                scores < scores.topk(config.top_k, dim=-1).values[..., -1:], -math.inf
            )
        # argmax of scores plus Gumbel noise draws from their softmax; the noise is finite for any
        # uniform draw
        uniform = _uniform(scores.shape, generator, scores.device).clamp(1e-20, 1 - 2**-24)
        factors = (scores - torch.log(-torch.log(uniform))).argmax(-1)
    return join_factors(factors)


def log_probability(
    logits: Float[Tensor, "*any 2 v"], ids: Int[Tensor, "*any"]
) -> Float[Tensor, "*any"]:
    """Log probability of each token under the model at temperature 1, however it was drawn."""
    factors = split_factors(ids)[..., None]
    return logits.float().log_softmax(-1).gather(-1, factors).sum((-1, -2))


def compile_blocks(model: DualBranchWorldModel) -> None:
    """Compiles the model's blocks in place: one graph for each shape; takes about a minute."""
    for name in model.config.branches:
        for block in model.branch(name).blocks:
            block.compile(dynamic=False)


class _NextFrame:
    """Called once for each new frame, in order: fills frame `at` of `made` and advances `at`."""

    def __init__(
        self,
        model: DualBranchWorldModel,
        history: KVCache | FullRecompute,
        prompt: FrameTokens,
        n_frames: int,
        config: SamplingConfig,
        generator: torch.Generator,
    ):
        (b, n_prompt, gh, gw), device = prompt.rgb.shape, prompt.rgb.device
        self.model, self.history, self.config, self.generator = model, history, config, generator
        history.commit(prompt[: n_prompt - 1])  # the last one: with the first new frame
        self.made = prompt.then(_blank(prompt[:1], model, n_frames - n_prompt))
        self.blank = _blank(prompt[:1], model)
        per_frame = [
            draw_orders(config, (b, 1, gh * gw), generator, device)
            for _ in range(n_frames - n_prompt)
        ]
        self.orders = torch.stack(per_frame)
        self.at, self.number = (torch.full((1,), n, device=device) for n in (n_prompt, 0))

    def __call__(self) -> None:
        orders = self.orders.index_select(0, self.number)[0]
        predict = self.history.predict_at(self.made, self.at)
        new = fill(self.model, predict, self.blank, self.config, orders, self.generator)
        self.made.write(self.at, new)
        self.at += 1
        self.number += 1


def _captured(next_frame: _NextFrame, generator: torch.Generator) -> Callable[[], None]:
    """A CUDA graph of `next_frame`; a call replays it, on the tensors that `next_frame` holds."""
    if next_frame.config.temperature and generator.device.type != "cuda":
        raise ValueError(
            f"cuda_graph at temperature {next_frame.config.temperature:g}: the generator is on "
            f"{generator.device}, and a graph can draw only from one on the GPU: give "
            "torch.Generator(device='cuda')"
        )
    graph = torch.cuda.CUDAGraph()
    if generator.device.type == "cuda":
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        next_frame()
    return graph.replay


def _blank(
    like: FrameTokens, model: DualBranchWorldModel, n_frames: int | None = None
) -> FrameTokens:
    """Frames of token 0, as many as in `like` or `n_frames`."""
    b, t, *grid = like.rgb.shape
    shape = (b, t if n_frames is None else n_frames, *grid)
    rgb, depth = (like.rgb.new_zeros(shape) for _ in range(2))
    return FrameTokens(rgb, depth if model.depth is not None else None)


def _uniform(
    shape: Sequence[int], generator: torch.Generator, device: torch.device
) -> Float[Tensor, "*shape"]:
    return torch.rand(shape, generator=generator, device=generator.device).to(device)
