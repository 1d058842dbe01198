"""Settings of the world model: the network, its training noise, its losses and its sampling.

Follows RoboScape (arXiv:2506.23135), section 3. What the paper leaves open is a field here, with a
comment that says so.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Interval

N_FACTORS = 2
# An 18-bit token id is two 9-bit factors: id % 512 and id // 512 (MAGVIT-2 ids, as in 1xgpt)
FACTOR_VOCAB = 512
TOKEN_VOCAB = FACTOR_VOCAB**N_FACTORS


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """The dual-branch spatio-temporal transformer; both branches have the same sizes."""

    n_layers: Annotated[int, Interval(ge=1, le=1024)] = 32
    n_heads: Annotated[int, Interval(ge=1, le=1024)] = 4
    d_model: Annotated[int, Interval(ge=2, le=65_536)] = 256  # width of the residual stream
    mlp_ratio: Annotated[int, Interval(ge=1, le=256)] = 4
    grid: tuple[int, int] = (16, 16)  # tokens down and across a frame (gh, gw)
    # Frames that a token attends to, its own included; the clip length in training
    n_frames: Annotated[int, Interval(ge=1, le=4096)] = 16

    # AGIBOT-World: 2 arms x (position 3, quaternion 4, gripper 1)
    action_dim: Annotated[int, Ge(1)] = 16
    # Actions per frame; the paper sees 1, the 30 Hz stream at 2 Hz frames has 15
    action_substeps: Annotated[int, Interval(ge=1, le=10_000)] = 1
    # "add", one linear map added to every token, is what the paper describes. "modulate" is AdaLN:
    # scale, shift and gate in every block, from the action, starting at zero.
    action_conditioning: Literal["add", "modulate"] = "modulate"
    # Width of the action features that "modulate" reads; unused by "add"
    d_action: Annotated[int, Interval(ge=1, le=65_536)] = 128

    # Open in the paper. "learned" is a vector per frame, "table" one per frame and cell (1xgpt's);
    # only "rotary" works beyond n_frames.
    time_positions: Literal["rotary", "learned", "table"] = "rotary"
    # "1xgpt": none before time attention and none after the last block
    norms: Literal["all", "1xgpt"] = "all"
    qk_norm: bool = False  # RMS norm on queries and keys, for stability at large width
    depth_branch: bool = True  # False: the ablation without depth, a plain RGB model
    # False: the RGB branch never reads the depth branch (no W_l); both learn side by side
    fusion: bool = field(default=True, metadata={"added": True})

    def __post_init__(self):
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}")
        if (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"head width {self.d_model // self.n_heads} is odd; rotary positions turn pairs of "
                "channels"
            )
        for name in (
            "n_layers",
            "n_frames",
            "action_dim",
            "action_substeps",
            "d_action",
            "mlp_ratio",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if min(self.grid) < 1:
            raise ValueError(f"grid={self.grid}: expected (rows, columns), both 1 or more")
        if self.action_conditioning not in ("add", "modulate"):
            raise ValueError(
                f"action_conditioning={self.action_conditioning!r}: expected 'add' or 'modulate'"
            )
        if self.time_positions not in ("rotary", "learned", "table"):
            raise ValueError(
                f"time_positions={self.time_positions!r}: expected 'rotary', 'learned' or 'table'"
            )
        if self.norms not in ("all", "1xgpt"):
            raise ValueError(f"norms={self.norms!r}: expected 'all' or '1xgpt'")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def n_cells(self) -> int:
        """Tokens per frame."""
        return self.grid[0] * self.grid[1]

    @property
    def n_fusions(self) -> int:
        """Layers after which the RGB branch reads the depth branch."""
        return self.n_layers if self.depth_branch and self.fusion else 0

    @property
    def least_parameters(self) -> int:
        """A lower bound of their number: the blocks' matrices alone."""
        attention, mlp = 2 * 4, 2 * self.mlp_ratio  # over space and over time
        return len(self.branches) * self.n_layers * (attention + mlp) * self.d_model**2

    @property
    def branches(self) -> tuple[str, ...]:
        return ("rgb", "depth") if self.depth_branch else ("rgb",)


# The paper's sizes are 34 M, 131 M and 544 M. One branch of 32 layers has about 35, 137 and 544 M
# at these widths, so the paper probably counts one branch; `parameter_counts` gives true totals.
# Heads are 64 wide, the width that attention kernels are fastest at (at width 256, 1xgpt has 8
# heads of 32; the parameter count is the same).
def small(**changes) -> WorldModelConfig:
    return replace(WorldModelConfig(n_layers=32, n_heads=4, d_model=256), **changes)


def medium(**changes) -> WorldModelConfig:
    return replace(WorldModelConfig(n_layers=32, n_heads=8, d_model=512), **changes)


def large(**changes) -> WorldModelConfig:
    return replace(WorldModelConfig(n_layers=32, n_heads=16, d_model=1024), **changes)


def paper_small(**changes) -> WorldModelConfig:
    """`small` as section 3 describes it: a linear map of the action is added to every token.

    The paper does not say how time is encoded; here, one learned vector for each of 16 frames.
    """
    return replace(small(action_conditioning="add", time_positions="learned"), **changes)


def tiny(**changes) -> WorldModelConfig:
    """A small network for two CPU cores; not in the paper."""
    return replace(
        WorldModelConfig(n_layers=4, n_heads=4, d_model=128, d_action=64, grid=(8, 8)), **changes
    )


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """The noise of training: which tokens are masked or wrong, as in 1xgpt."""

    # What a predicted frame sees of the frames before it; open in the paper. "masked", as in 1xgpt
    # and most likely in the paper, runs once over the clip: earlier frames have masked cells too,
    # unlike in generation. "clean" adds an unmasked copy of the clip, which the masked frames
    # attend to: exactly what generation sees. A clip then costs 1.9 times as much and has 1.9 times
    # as many predicted tokens.
    context: Literal["masked", "clean"] = "masked"
    # Frames never masked; the first masked frame is uniform over the others
    n_prompt_frames: Annotated[int, Ge(1)] = 1
    # Each clip draws its rate of wrong token factors from U(0, this)
    max_replacement_rate: Annotated[float, Interval(ge=0, le=1)] = 0.2

    def __post_init__(self):
        if self.n_prompt_frames < 1:
            raise ValueError(
                f"n_prompt_frames={self.n_prompt_frames}: frame 0 is always given, expected 1 or "
                "more"
            )
        if not 0 <= self.max_replacement_rate <= 1:
            raise ValueError(
                f"max_replacement_rate={self.max_replacement_rate}: expected a share in [0, 1]"
            )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """L = L_rgb + λ1 L_depth + λ2 L_keypoint + λ3 L_attention; weights of 0 are the ablations."""

    depth: Annotated[float, Ge(0)] = 1.0  # λ1
    keypoint: Annotated[float, Ge(0)] = 0.01  # λ2
    attention: Annotated[float, Ge(0)] = 1.0  # λ3
    # Weight in L_attention of a cell under a track; that of the others is 1
    gamma: Annotated[float, Ge(0)] = 5.0

    def __post_init__(self):
        for name in ("depth", "keypoint", "attention", "gamma"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each part that is computed, by the names that `world_losses` returns."""
        weights = {
            "rgb": 1.0,
            "depth": self.depth,
            "keypoint": self.keypoint,
            "attention": self.attention,
        }
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How MaskGIT fills a frame."""

    # MaskGIT steps for each new frame (1xgpt: 2)
    n_steps: Annotated[int, Interval(ge=1, le=10_000)] = 2
    # 0 takes the likeliest factor, otherwise logits are divided by this before a factor is drawn
    temperature: Annotated[float, Ge(0)] = 0.0
    # Draw among the k likeliest values of each factor
    top_k: Annotated[int, Interval(ge=1, le=FACTOR_VOCAB)] | None = None
    # Which cells are kept after each step (1xgpt: random)
    order: Literal["random", "confidence"] = "random"

    def __post_init__(self):
        if self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps}: expected 1 or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: expected 0 or more")
        if self.top_k is not None and not 1 <= self.top_k <= FACTOR_VOCAB:
            raise ValueError(f"top_k={self.top_k}: expected 1 to {FACTOR_VOCAB}, or None for all")
        if self.order not in ("random", "confidence"):
            raise ValueError(f"order={self.order!r}: expected 'random' or 'confidence'")
