"""Attention over the cells of one frame (all to all) and over the frames of one cell (the past
only).

Tensors are `b t s d` throughout. RoboScape section 3.2; the factorised attention of Genie
(arXiv:2402.15391).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class TimeView:
    """Which frames are in a pass and what they may see; the same for all blocks.

    Without `mask` the pass is a plain clip, each frame seeing itself and those before it. `slots`
    are the places of the frames' keys and values in a cache; the mask then runs over the first
    `mask.shape[1]` slots.
    """

    positions: Int[Tensor, " t"]  # true frame number of each frame in the pass
    mask: Bool[Tensor, "t k"] | None = None
    slots: Int[Tensor, " t"] | None = None


def clip_view(n_frames: int, window: int, device: torch.device | str) -> TimeView:
    """A whole clip in order, each frame seeing the `window` frames up to itself."""
    positions = torch.arange(n_frames, device=device)
    return TimeView(positions, None if n_frames <= window else sees(positions, positions, window))


def two_stream_view(n: int, window: int, device: torch.device | str) -> TimeView:
    """Frames 0 ... n-1 as they are, then frames 1 ... n to be predicted, each from those before it.

    The first n see each other as in a clip. A frame to be predicted sees itself and the *first*
    kind of earlier frames, just as in generation, so all n are predicted in one pass (as block
    diffusion, arXiv:2503.09573; blocks are frames).
    """
    known = torch.arange(n, device=device)
    new = known + 1
    among_known = torch.cat(
        [sees(known, known, window), torch.zeros(n, n, dtype=torch.bool, device=device)], dim=1
    )
    looking_back = sees(new, known, window) & (known < new[:, None])
    itself = torch.eye(n, dtype=torch.bool, device=device)
    return TimeView(
        torch.cat([known, new]), torch.cat([among_known, torch.cat([looking_back, itself], dim=1)])
    )


def sees(queries: Int[Tensor, " q"], keys: Int[Tensor, " k"], window: int) -> Bool[Tensor, "q k"]:
    """True where a frame at a query position may look at a frame at a key position: not later, and
    within `window`.
    """
    age = queries[:, None] - keys[None]
    return (age >= 0) & (age < window)


class TimeCache:
    """Keys and values of one block's time attention, one slot per frame; the heads of all cells
    side by side.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor):
        """shape: (b, slots, n, e). `like` gives device and precision; under autocast, that of its
        products.
        """
        kind = like.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else like.dtype
        self.keys, self.values = (
            torch.zeros(shape, dtype=dtype, device=like.device) for _ in range(2)
        )

    def write(
        self, slots: Int[Tensor, " t"], k: Float[Tensor, "b t n e"], v: Float[Tensor, "b t n e"]
    ) -> None:
        self.keys.index_copy_(1, slots, k)
        self.values.index_copy_(1, slots, v)


def rotary_angles(positions: Int[Tensor, " t"], d_head: int) -> Float[Tensor, "2 t 1 e"]:
    """Cosine and sine of each frame's rotation for each channel pair (RoFormer, arXiv:2104.09864).

    Base 1000 instead of the usual 10,000: clips are tens of frames long, not thousands of words.
    """
    rates = 1000.0 ** (-torch.arange(0, d_head, 2, device=positions.device) / d_head)
    angles = positions[:, None].float() * rates
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def rotate(
    x: Float[Tensor, "b t n e"], angles: Float[Tensor, "2 t 1 half"]
) -> Float[Tensor, "b t n e"]:
    """Turn channel pairs (i, i + e/2) of every head by the frame's angles."""
    cos, sin = angles.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class HeadNorm(nn.RMSNorm):
    """RMS norm over a head's channels, in the precision of its input (under autocast the weight
    alone is float32).
    """

    def forward(self, x: Float[Tensor, "*any e"]) -> Float[Tensor, "*any e"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Fused query, key and value projection, multi-head attention, output projection."""

    def __init__(self, d_model: int, n_heads: int, qk_norm: bool):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.q_norm = HeadNorm(d_model // n_heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(d_model // n_heads) if qk_norm else nn.Identity()


class SpaceAttention(Attention):
    """Every cell looks at every cell of its own frame."""

    def forward(self, x: Float[Tensor, "b t s d"]) -> Float[Tensor, "b t s d"]:
        q, k, v = rearrange(self.qkv(x), "b t s (i n e) -> i (b t) n s e", i=3, n=self.n_heads)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(rearrange(mixed, "(b t) n s e -> b t s (n e)", b=x.shape[0]))


class TimeAttention(Attention):
    """Every cell looks at the same cell in its own and earlier frames."""

    def forward(
        self,
        x: Float[Tensor, "b t s d"],
        view: TimeView,
        angles: Float[Tensor, "2 t 1 half"] | None,
        cache: TimeCache | None = None,
    ) -> Float[Tensor, "b t s d"]:
        # A cell's heads and the cells themselves are independent alike, so (s n) is one axis of
        # heads. Frames stay the outer axis: writing a frame into the cache is one contiguous copy,
        # and attention reads it by strides.
        q, k, v = rearrange(self.qkv(x), "b t s (i n e) -> i b t (s n) e", i=3, n=self.n_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            assert view.slots is not None and view.mask is not None
            cache.write(view.slots, k, v)
            k, v = cache.keys[:, : view.mask.shape[1]], cache.values[:, : view.mask.shape[1]]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=view.mask, is_causal=view.mask is None
        )
        return self.out(rearrange(mixed, "b (s n) t e -> b t s (n e)", n=self.n_heads))
