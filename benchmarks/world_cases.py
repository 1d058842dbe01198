"""The world model's benchmark cases: random weights and tokens, and two ways to generate."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from measuring import Variant, interleave
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.world import config as sizes
from model.world.cache import FrameTokens, as_pair
from model.world.config import TOKEN_VOCAB, SamplingConfig, WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel, HiddenStates
from model.world.sampling import draw_orders, fill, rollout

SIZES = {"tiny": sizes.tiny, "small": sizes.small, "medium": sizes.medium, "large": sizes.large}
WINDOW = 16  # frames
SEED = 0


def noise(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with a window of frames and actions to generate from; greedy, random order."""

    name: str
    model: DualBranchWorldModel
    clip: FrameTokens
    actions: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.actions.device

    @property
    def n_clips(self) -> int:
        return len(self.actions)

    def generate(
        self,
        n_steps: int,
        n_new: int,
        *,
        graph: bool = False,
        on_frame: Callable[[int], None] | None = None,
    ) -> FrameTokens:
        """Frame 0 and `n_new` predicted ones, our way; actions repeat after each window."""
        actions = self.actions[:, torch.arange(1 + n_new, device=self.device) % WINDOW]
        config, start = SamplingConfig(n_steps=n_steps), self.clip[:1]
        return rollout(
            self.model,
            start,
            actions,
            config,
            noise(self.device),
            cuda_graph=graph,
            on_frame=on_frame,
        )

    def window_frame(self, made: FrameTokens, t: int, n_steps: int) -> FrameTokens:
        """Frame t, the plain way: the whole window runs at every step, and nothing is kept.

        It follows those in `made`; frames after t are masked. The noise is that of `generate`.
        """
        later = torch.arange(WINDOW, device=self.device).view(1, WINDOW, 1, 1) > t
        config, generator = SamplingConfig(n_steps=n_steps), noise(self.device)
        cells = (self.n_clips, 1, self.model.config.n_cells)
        orders = draw_orders(config, cells, generator, self.device)
        for _ in range(t - 1):  # frame t takes the t-th draw, as in `generate`
            orders = draw_orders(config, cells, generator, self.device)

        def predict(new: FrameTokens, masked: torch.Tensor) -> HiddenStates:
            window = made[:t].then(new).then(self.clip[t + 1 :])
            unknown = later.expand_as(window.rgb).clone()
            unknown[:, t : t + 1] = masked
            return self.model(*as_pair(window), self.actions, unknown)[t : t + 1]

        with torch.no_grad():
            return fill(self.model, predict, self.clip[:1], config, orders, generator)

    def in_its_precision(self) -> "Case":
        """The case with bfloat16 weights on a GPU, as it is on a CPU."""
        if self.device.type != "cuda":
            return self
        return replace(self, model=deepcopy(self.model).bfloat16())


def make_case(name: str, config: WorldModelConfig, device: torch.device, n_clips: int) -> Case:
    torch.manual_seed(SEED)
    model = DualBranchWorldModel(config).eval().requires_grad_(False)
    for weight in model.parameters():  # also of those that start at 0, which would do nothing
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    rgb, depth = torch.randint(TOKEN_VOCAB, (2, n_clips, WINDOW, *config.grid)).to(device)
    clip = FrameTokens(rgb, depth if config.depth_branch else None)
    actions = torch.randn(n_clips, WINDOW, config.action_dim).to(device)
    return Case(name=name, model=model.to(device), clip=clip, actions=actions)


def unfused(work: Callable[[], object]) -> Callable[[], object]:
    """The same work without a fused attention kernel."""

    def run() -> object:
        with sdpa_kernel(SDPBackend.MATH):
            return work()

    return run


def limits(d_model: int, device: torch.device) -> tuple[float, float]:
    """FLOP/s of products of the model's shapes, in its precision, and bytes/s of a copy."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(4096, d_model).to(device, dtype)
    w = torch.randn(d_model, 4 * d_model).to(device, dtype)
    source = torch.zeros(1 << 28 if device.type == "cuda" else 1 << 25, device=device)
    target = torch.empty_like(source)
    variants = {
        "product": Variant(work=lambda: x @ w),
        "copy": Variant(work=lambda: target.copy_(source)),
    }
    times = interleave(variants, 20, device)
    flops, n_bytes = 2 * x.numel() * w.shape[1], 2 * source.nbytes
    return flops / times["product"].least, n_bytes / times["copy"].least


def flops_per_frame(config: WorldModelConfig, n_steps: int) -> int:
    """FLOPs of generating a frame of a clip with the cache, counted on meta tensors."""
    with torch.device("meta"):
        model = DualBranchWorldModel(config)
        rgb, depth = torch.zeros(2, 1, 1, *config.grid, dtype=torch.long)
        actions = torch.zeros(1, 2, config.action_dim)
    start = FrameTokens(rgb, depth if config.depth_branch else None)
    with FlopCounterMode(display=False) as counter:
        rollout(model, start, actions, SamplingConfig(n_steps=n_steps), torch.Generator())
    return counter.get_total_flops()
