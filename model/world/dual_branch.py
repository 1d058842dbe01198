"""The dual-branch spatio-temporal transformer: tokens and actions in, states and logits out.

RoboScape (arXiv:2506.23135) section 3.2: an RGB and a depth stack of blocks run in parallel on the
same history and actions; after every block a learned linear map of the depth stream is added to the
RGB stream. Nothing flows back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.world.attention import (
    SpaceAttention,
    TimeAttention,
    TimeCache,
    TimeView,
    clip_view,
    rotary_angles,
)
from model.world.config import FACTOR_VOCAB, N_FACTORS, WorldModelConfig

Cache = list[dict[str, TimeCache]]  # one entry per block, by branch


@dataclass(frozen=True)
class HiddenStates:
    """Final hidden states after the norm; `depth` is None without a depth branch."""

    rgb: Float[Tensor, "b t s d"]
    depth: Float[Tensor, "b t s d"] | None

    def __getitem__(self, frames: slice) -> "HiddenStates":
        return HiddenStates(
            self.rgb[:, frames], self.depth[:, frames] if self.depth is not None else None
        )


def split_factors(ids: Int[Tensor, "*any"]) -> Int[Tensor, "*any 2"]:
    """Token ids to (low, high) 9-bit factors."""
    return torch.stack([ids % FACTOR_VOCAB, ids // FACTOR_VOCAB], dim=-1)


def join_factors(factors: Int[Tensor, "*any 2"]) -> Int[Tensor, "*any"]:
    return factors[..., 0] + FACTOR_VOCAB * factors[..., 1]


class TokenEmbedding(nn.Module):
    """The sum of a row per factor and of positions; a learned mask vector replaces masked rows."""

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        d = config.d_model
        self.low = nn.Embedding(FACTOR_VOCAB, d)
        self.high = nn.Embedding(FACTOR_VOCAB, d)
        self.mask = nn.Parameter(torch.empty(d))
        self.space = nn.Parameter(torch.empty(config.n_cells, d))
        shapes = {"rotary": None, "learned": (d,), "table": (config.n_cells, d)}
        per_frame = shapes[config.time_positions]
        self.time = nn.Parameter(torch.empty(config.n_frames, *per_frame)) if per_frame else None

    def forward(
        self,
        ids: Int[Tensor, "b t s"],
        masked: Bool[Tensor, "b t s"] | None,
        positions: Int[Tensor, " t"],
    ) -> Float[Tensor, "b t s d"]:
        x = self.low(ids % FACTOR_VOCAB) + self.high(ids // FACTOR_VOCAB)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask, x)
        x = x + self.space
        if self.time is None:
            return x
        return x + self.time[positions].view(len(positions), -1, x.shape[-1])


class Block(nn.Module):
    """Space attention, time attention and MLP, each after a norm; `modulate` makes them AdaLN."""

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        d, self.modulated = config.d_model, config.action_conditioning == "modulate"
        self.norms = nn.ModuleList(
            nn.LayerNorm(d, elementwise_affine=not self.modulated) for _ in range(3)
        )
        if config.norms == "1xgpt":
            self.norms[1] = nn.Identity()
        self.space = SpaceAttention(d, config.n_heads, config.qk_norm)
        self.time = TimeAttention(d, config.n_heads, config.qk_norm)
        self.mlp = nn.Sequential(
            nn.Linear(d, config.mlp_ratio * d), nn.GELU(), nn.Linear(config.mlp_ratio * d, d)
        )
        self.modulation = nn.Linear(config.d_action, 9 * d) if self.modulated else None

    def forward(
        self,
        x: Float[Tensor, "b t s d"],
        action: Float[Tensor, "b t k"],
        view: TimeView,
        angles: Float[Tensor, "2 t 1 half"] | None,
        cache: TimeCache | None,
    ) -> Float[Tensor, "b t s d"]:
        layers = (self.space, lambda y: self.time(y, view, angles, cache), self.mlp)
        if self.modulation is None:
            for norm, layer in zip(self.norms, layers, strict=True):
                x = x + layer(norm(x))
            return x
        signals = rearrange(self.modulation(action), "b t (i j d) -> i j b t 1 d", i=3, j=3)
        for norm, layer, (scale, shift, gate) in zip(self.norms, layers, signals, strict=True):
            x = torch.addcmul(x, gate, layer(torch.addcmul(shift, norm(x), 1 + scale)))
        return x

    def start_quiet(self, residual_scale: float) -> None:
        """Scales down what is added to the residual stream; modulation starts at 0 (AdaLN-zero)."""
        for name, weight in self.named_parameters():
            if name in ("space.out.weight", "time.out.weight", "mlp.2.weight"):
                weight.data.mul_(residual_scale)
            if name.startswith("modulation."):
                nn.init.zeros_(weight)


class Branch(nn.Module):
    """Embedding, blocks, final norm and head of one stream; `DualBranchWorldModel` runs them."""

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        d, n_inputs = config.d_model, config.action_dim * config.action_substeps
        self.embed = TokenEmbedding(config)
        if config.action_conditioning == "add":
            self.action = nn.Linear(n_inputs, d)
        else:
            k = config.d_action
            self.action = nn.Sequential(
                nn.Linear(n_inputs, k), nn.SiLU(), nn.Linear(k, k), nn.SiLU()
            )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(d) if config.norms == "all" else nn.Identity()
        self.head = nn.Linear(d, N_FACTORS * FACTOR_VOCAB)

    def logits(self, states: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 2 512"]:
        """Scores of the 512 values of each factor; given the state, the two are independent."""
        return self.head(states).unflatten(-1, (N_FACTORS, FACTOR_VOCAB))


class DualBranchWorldModel(nn.Module):
    """Predicts masked tokens from the frame's other tokens, earlier frames and actions."""

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        self.rgb = Branch(config)
        self.depth = Branch(config) if config.depth_branch else None
        self.fusions = nn.ModuleList(
            nn.Linear(config.d_model, config.d_model, bias=False) for _ in range(config.n_fusions)
        )
        self.apply(_init_weights)
        # Keeps the residual stream's size at any depth, as in GPT-2
        residual_scale = (3 * config.n_layers) ** -0.5
        for block in (module for module in self.modules() if isinstance(module, Block)):
            block.start_quiet(residual_scale)
        for weight in self.fusions.parameters():
            weight.data.mul_(residual_scale)

    def forward(
        self,
        rgb_tokens: Int[Tensor, "b t gh gw"],
        depth_tokens: Int[Tensor, "b t gh gw"] | None,
        actions: Float[Tensor, "b t *substeps a"],
        masked: Bool[Tensor, "b t gh gw"] | None = None,
        *,
        view: TimeView | None = None,
        cache: Cache | None = None,
    ) -> HiddenStates:
        """Final hidden states of both branches, for `model.rgb.logits` and `model.depth.logits`.

        `masked` marks the cells to predict: both branches see the mask vector there (open in the
        paper; here the same cells in both). Without a depth branch `depth_tokens` are ignored.
        `view` and `cache` are for generation, see `sampling`.
        """
        self._check(rgb_tokens, depth_tokens, actions, view)
        view = view or clip_view(rgb_tokens.shape[1], self.config.n_frames, rgb_tokens.device)
        rotary = self.config.time_positions == "rotary"
        angles = rotary_angles(view.positions, self.config.d_head) if rotary else None
        h, conditions = {}, {}
        for name in self.config.branches:
            tokens = rgb_tokens if name == "rgb" else depth_tokens
            h[name], conditions[name] = self._embed(
                self.branch(name), tokens, actions, masked, view
            )
        for i in range(self.config.n_layers):
            for name in h:
                block_cache = cache[i][name] if cache is not None else None
                h[name] = self.branch(name).blocks[i](
                    h[name], conditions[name], view, angles, block_cache
                )
            if self.config.n_fusions:
                h["rgb"] = h["rgb"] + self.fusions[i](h["depth"])
        return HiddenStates(
            self.rgb.norm(h["rgb"]), self.depth.norm(h["depth"]) if self.depth is not None else None
        )

    def branch(self, name: str) -> Branch:
        branch = getattr(self, name)
        assert branch is not None, f"this model has no {name} branch"
        return branch

    def _embed(self, branch: Branch, tokens, actions, masked, view) -> tuple[Tensor, Tensor]:
        flat = masked.flatten(2) if masked is not None else None
        x = branch.embed(tokens.flatten(2), flat, view.positions)
        action = branch.action(actions.flatten(2))  # (b, t, d or d_action)
        if self.config.action_conditioning == "add":
            x = x + action[:, :, None]
        return x, action

    def new_cache(self, b: int, n_slots: int) -> Cache:
        """An empty cache for `n_slots` frames of `b` clips.

        Each block and branch has 2 b n_slots n_cells d_model numbers.
        """
        shape = (b, n_slots, self.config.n_cells * self.config.n_heads, self.config.d_head)
        like = self.rgb.head.weight
        return [
            {name: TimeCache(shape, like) for name in self.config.branches}
            for _ in range(self.config.n_layers)
        ]

    def _check(
        self, tokens: Tensor, depth_tokens: Tensor | None, actions: Tensor, view: TimeView | None
    ) -> None:
        c = self.config
        if self.depth is not None and depth_tokens is None:
            raise ValueError("this model has a depth branch and needs depth_tokens")
        if tuple(tokens.shape[2:]) != c.grid:
            raise ValueError(
                f"tokens have a {tuple(tokens.shape[2:])} grid, the model was made for {c.grid}"
            )
        found, expected = actions[0, 0].numel(), c.action_substeps * c.action_dim
        if found != expected:
            raise ValueError(
                f"actions have {tuple(actions.shape[2:])} = {found} numbers a frame, the model was "
                f"made for {c.action_substeps} sub-steps x {c.action_dim}; pick sub-steps with "
                "`action_substeps`"
            )
        if view is None:
            self.check_length(tokens.shape[1])

    def check_length(self, n_frames: int) -> None:
        """Raises ValueError if time positions end before; for callers that pass a `view`."""
        c = self.config
        if c.time_positions != "rotary" and n_frames > c.n_frames:
            raise ValueError(
                f"{n_frames} frames, but {c.time_positions} time positions end at {c.n_frames}; "
                "use 'rotary'"
            )


def _init_weights(module: nn.Module) -> None:
    """Linear maps keep variance, table rows have length about 1, heads are nearly uniform."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, TokenEmbedding):
        for table in module.parameters():
            nn.init.normal_(table, std=table.shape[-1] ** -0.5)
    if isinstance(module, Branch):
        nn.init.normal_(module.head.weight, std=0.02)


def parameter_counts(model: DualBranchWorldModel) -> dict[str, int]:
    """Numbers of parameters: of each branch, of the fusion maps, and in total."""

    def count(modules: Sequence[nn.Module | None]) -> int:
        return sum(
            p.numel() for module in modules if module is not None for p in module.parameters()
        )

    parts = {
        "rgb": count([model.rgb]),
        "depth": count([model.depth]),
        "fusion": count(list(model.fusions)),
    }
    return parts | {"total": sum(parts.values())}
