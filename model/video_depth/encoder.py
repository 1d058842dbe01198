"""The image encoder: frames to token maps (DINOv2, Oquab et al. 2023, arXiv:2304.07193).

A vision transformer with patches of 14 px and a class token, which sees each frame alone. Names are
those of the published checkpoints.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.video_depth.config import PATCH, VideoDepthConfig

NORM_EPS = 1e-6
MLP_RATIO = 4
# Patches added to a grid's sides before the position table is scaled to it; see `positions`
POSITION_OFFSET = 0.1
LAYER_SCALE_START = 0.1  # as in CaiT, up to 18 blocks (Touvron et al. 2021, arXiv:2103.17239)
WEIGHT_STD = 0.02  # of initial linear layers and learned tokens


class PatchEmbed(nn.Module):
    """Squares of 14 x 14 px to tokens, row by row."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n s d"]:
        return rearrange(self.proj(images), "n d gh gw -> n (gh gw) d")


class Attention(nn.Module):
    """Full attention among the tokens of a frame."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        q, k, v = rearrange(
            self.qkv(x), "n s (three i j) -> three n i s j", three=3, i=self.n_heads
        )
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "n i s j -> n s (i j)"))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """One learned factor per channel of a residual branch."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE_START))

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each with a norm before and a layer scale after."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, n_heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """Normalised images to four token maps of the same size, the deepest last."""

    def __init__(self, config: VideoDepthConfig):
        super().__init__()
        self.taps, self.position_grid = config.taps, config.position_grid
        self.patch_embed = PatchEmbed(config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.position_grid**2, config.width))
        # Unused; it is in the published files, from the encoder's own training
        self.mask_token = nn.Parameter(torch.zeros(1, config.width), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.n_heads) for _ in range(config.n_blocks)
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        nn.init.normal_(self.cls_token, std=WEIGHT_STD)
        nn.init.normal_(self.pos_embed, std=WEIGHT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=WEIGHT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n s d"]]:
        """The outputs of the blocks in `config.taps` after the final norm, without class tokens."""
        x, tapped = self.tokens(images), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                tapped.append(self.norm(x)[:, 1:])
        return tapped

    def tokens(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n s d"]:
        """The class token and the patches, with positions added."""
        height, width = images.shape[-2:]
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return x + self.positions(height // PATCH, width // PATCH)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 s d"]:
        """The position table for a grid of patches, the class token's entry first.

        The square table is interpolated (bicubic) unless the grid is that square. Coordinates are
        scaled by (rows + 0.1) / side, not by rows / side: DINOv2's guard against a size rounded
        down, and the published weights were trained with the slight shift that it makes.
        """
        side = self.position_grid
        if rows == columns == side:
            return self.pos_embed
        table = rearrange(self.pos_embed[:, 1:], "1 (gh gw) d -> 1 d gh gw", gh=side)
        scale = ((rows + POSITION_OFFSET) / side, (columns + POSITION_OFFSET) / side)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        return torch.cat(
            [self.pos_embed[:, :1], rearrange(table, "1 d gh gw -> 1 (gh gw) d")], dim=1
        )
