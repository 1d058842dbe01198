"""Space attention (all cells of a frame) and causal time attention (a cell's frames up to now).

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
    """Which frames a forward pass runs on and what they may see; the same for all blocks.

    Without `mask` they are a plain clip: each frame sees itself and those before it. `slots` are
    the places of the frames' keys and values in a cache; the mask's columns are then the first
    slots of the cache.
    """

    positions: Int[Tensor, " t"]  # the number of each frame in its clip
    mask: Bool[Tensor, "t k"] | None = None
    slots: Int[Tensor, " t"] | None = None


def clip_view(n_frames: int, window: int, device: torch.device | str) -> TimeView:
    """The view of a whole clip: each frame sees the `window` frames up to itself."""
    positions = torch.arange(n_frames, device=device)
    return TimeView(positions, None if n_frames <= window else sees(positions, positions, window))


def two_stream_view(n: int, window: int, device: torch.device | str) -> TimeView:
    """The view of frames 0 ... n-1 as given, then of frames 1 ... n to be predicted.

    The given frames see each other as in a clip. A frame to be predicted sees itself and the
    *given* earlier frames, just as in generation, so one forward pass predicts all n (as block
    diffusion, arXiv:2503.09573; blocks are frames).
    """
    given = torch.arange(n, device=device)
    new = given + 1
    no_new = torch.zeros(n, n, dtype=torch.bool, device=device)
    itself = torch.eye(n, dtype=torch.bool, device=device)
    of_given = torch.cat([sees(given, given, window), no_new], dim=1)
    of_new = torch.cat([sees(new, given, window) & (given < new[:, None]), itself], dim=1)
    return TimeView(torch.cat([given, new]), torch.cat([of_given, of_new]))


def sees(queries: Int[Tensor, " q"], keys: Int[Tensor, " k"], window: int) -> Bool[Tensor, "q k"]:
    """True where a frame at a query position sees one at a key position: not later, in `window`."""
    age = queries[:, None] - keys[None]
    return (age >= 0) & (age < window)


class TimeCache:
    """Keys and values of one block's time attention: a slot per frame, for all cells' heads."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor):
        """Zeros of shape (b, slots, n, e), on `like`'s device, in its precision or autocast's."""
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
    """Cosine and sine of each frame's angle for each channel pair (RoFormer, arXiv:2104.09864).

    Base 1000 instead of the usual 10,000: clips are tens of frames long, not thousands of words.
    """
    rates = 1000.0 ** (-torch.arange(0, d_head, 2, device=positions.device) / d_head)
    angles = positions[:, None].float() * rates
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def rotate(
    x: Float[Tensor, "b t n e"], angles: Float[Tensor, "2 t 1 half"]
) -> Float[Tensor, "b t n e"]:
    """x with the channel pairs (i, i + e/2) of every head rotated by the frame's angles."""
    cos, sin = angles.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class HeadNorm(nn.RMSNorm):
    """RMS norm over a head's channels, in the input's precision (autocast's weight is float32)."""

    def forward(self, x: Float[Tensor, "*any e"]) -> Float[Tensor, "*any e"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """The projections of multi-head attention: queries, keys and values in one, and the output."""

    def __init__(self, d_model: int, n_heads: int, qk_norm: bool):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.q_norm = HeadNorm(d_model // n_heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(d_model // n_heads) if qk_norm else nn.Identity()


class SpaceAttention(Attention):
    """Every cell attends to every cell of its own frame."""

    def forward(self, x: Float[Tensor, "b t s d"]) -> Float[Tensor, "b t s d"]:
        q, k, v = rearrange(self.qkv(x), "b t s (i n e) -> i (b t) n s e", i=3, n=self.n_heads)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(rearrange(mixed, "(b t) n s e -> b t s (n e)", b=x.shape[0]))


class TimeAttention(Attention):
    """Every cell attends to the same cell in its own and earlier frames."""

    def forward(
        self,
        x: Float[Tensor, "b t s d"],
        view: TimeView,
        angles: Float[Tensor, "2 t 1 half"] | None,
        cache: TimeCache | None = None,
    ) -> Float[Tensor, "b t s d"]:
        # Cells are as independent as heads, so (s n) is one axis of heads. Frames stay the outer
        # axis: writing a frame into the cache is one contiguous copy, and attention reads it by
        # strides.
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
