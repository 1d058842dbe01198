"""The update transformer: a token for every point in every frame of a window in, corrections out.

Alternating attention over time and over points, then attention of all tokens to each other and to a
few support tokens. Entry names are those of the published file (`updateformer.*`). Tokens are
(b, s, p, d) throughout.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.spatial_tracker.config import SpatialTrackerConfig

# Attention scores computed at once: 256 MiB in float32, if the kernel keeps them
MAX_SCORES = 2**26
NORM_EPS = 1e-6  # of the norms without parameters


def attend(
    q: Float[Tensor, "n heads i e"],
    k: Float[Tensor, "n heads j e"],
    v: Float[Tensor, "n heads j e"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n heads i e"]:
    """Scaled dot-product attention in `dtype`, for a slice of the queries at a time.

    So memory grows with the number of tokens, not with its square, also without a fused kernel.
    """
    at_once = max(1, MAX_SCORES // (k.shape[0] * k.shape[1] * k.shape[2]))
    q, k, v, given = q.to(dtype), k.to(dtype), v.to(dtype), q.dtype
    mixed = [F.scaled_dot_product_attention(part, k, v) for part in q.split(at_once, dim=2)]
    return torch.cat(mixed, dim=2).to(given)


class Attention(nn.Module):
    """Multi-head self-attention within sequences."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n i d"], dtype: torch.dtype) -> Float[Tensor, "n i d"]:
        q, k, v = rearrange(self.qkv(x), "n i (three h e) -> three n h i e", three=3, h=self.heads)
        return self.proj(rearrange(attend(q, k, v, dtype), "n h i e -> n i (h e)"))


class Mlp(nn.Module):
    """Two layers with a tanh-GELU between."""

    def __init__(self, width: int, ratio: int):
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "n i d"]) -> Float[Tensor, "n i d"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to its input."""

    def __init__(self, config: SpatialTrackerConfig):
        super().__init__()
        self.attn = Attention(config.hidden, config.heads)
        self.mlp = Mlp(config.hidden, config.mlp_ratio)

    def forward(self, x: Float[Tensor, "n i d"], dtype: torch.dtype) -> Float[Tensor, "n i d"]:
        x = x + self.attn(_normalised(x), dtype)
        return x + self.mlp(_normalised(x))


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


class SupportLayer(nn.Module):
    """Cross attention to a source and an MLP, as in LoFTR (arXiv:2104.00680), but with softmax."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.merge = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 2 * width, bias=False),
            nn.ReLU(),
            nn.Linear(2 * width, width, bias=False),
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b i d"], source: Float[Tensor, "b j d"], dtype: torch.dtype
    ) -> Float[Tensor, "b i d"]:
        q, k, v = (
            rearrange(projected, "b i (h e) -> b h i e", h=self.heads)
            for projected in (self.q_proj(x), self.k_proj(source), self.v_proj(source))
        )
        message = self.norm1(self.merge(rearrange(attend(q, k, v, dtype), "b h i e -> b i (h e)")))
        return x + self.norm2(self.mlp(torch.cat([x, message], dim=-1)))


class SupportAttention(nn.Module):
    """Alternating self and cross attention of tokens and support tokens.

    The published network has this in place of the paper's rigidity embedding.
    """

    def __init__(self, config: SpatialTrackerConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            SupportLayer(config.hidden, config.support_heads) for _ in range(config.support_layers)
        )

    def forward(
        self, x: Float[Tensor, "b i d"], support: Float[Tensor, "b j d"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b i d"], Float[Tensor, "b j d"]]:
        for i, layer in enumerate(self.layers):
            if i % 2 == 0:
                x, support = layer(x, x, dtype), layer(support, support, dtype)
            else:
                x = layer(x, support, dtype)
                support = layer(support, x, dtype)  # sees the updated tokens
        return x, support


class UpdateTransformer(nn.Module):
    """Tokens to corrections: 3 coordinates (in cells) and `latent` feature channels for each."""

    def __init__(self, config: SpatialTrackerConfig):
        super().__init__()
        out = 3 + config.latent
        self.input_transform = nn.Linear(config.token, config.hidden)
        self.time_blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.space_blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.gnn = SupportAttention(config)
        self.flow_head = nn.Sequential(
            nn.Linear(config.hidden, out),
            nn.ReLU(),
            nn.Linear(out, out),
            nn.ReLU(),
            nn.Linear(out, out),
        )

    def forward(
        self, tokens: Float[Tensor, "b s p k"], support: Float[Tensor, "b j d"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b s p i"], Float[Tensor, "b j d"]]:
        """Corrections, and the updated support tokens."""
        b, s = tokens.shape[:2]
        x = self.input_transform(tokens)
        for time_block, space_block in zip(self.time_blocks, self.space_blocks, strict=True):
            x = time_block(rearrange(x, "b s p d -> (b p) s d"), dtype)
            x = space_block(rearrange(x, "(b p) s d -> (b s) p d", b=b), dtype)
            x = rearrange(x, "(b s) p d -> b s p d", b=b)
        x, support = self.gnn(rearrange(x, "b s p d -> b (s p) d"), support, dtype)
        return rearrange(self.flow_head(x), "b (s p) i -> b s p i", s=s), support
