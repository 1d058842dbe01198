"""The tokenizer: images (b c h w) in [-1, 1] <-> ids (b gh gw).

The same classes make both published layouts; parameter names are those of the published checkpoints
(`encoder.*`, `decoder.*`; the quantiser has none). There is no time axis: frames are independent.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model.magvit2.blocks import (
    AdaptiveGroupNorm,
    ResBlock,
    Upsample,
    depth_to_space,
    group_norm,
    space_to_depth,
)
from model.magvit2.config import MagvitConfig
from model.magvit2.quantizer import ids_from_signs, signs_from_ids, straight_through

RGB = 3


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then a strided convolution, but at the coarsest level."""

    def __init__(
        self, in_channels: int, out_channels: int, config: MagvitConfig, *, coarsest: bool
    ):
        super().__init__()
        self.block = res_blocks(in_channels, out_channels, config.n_res_blocks, config.norm_groups)
        if coarsest:
            self.downsample = nn.Identity()
        else:
            self.downsample = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h2 w2"]:
        return self.downsample(self.block(x))


class DecoderLevel(nn.Module):
    """Residual blocks at one resolution, then an `Upsample` except at the finest level."""

    def __init__(self, in_channels: int, out_channels: int, config: MagvitConfig, *, finest: bool):
        super().__init__()
        self.block = res_blocks(in_channels, out_channels, config.n_res_blocks, config.norm_groups)
        self.upsample = nn.Identity() if finest else Upsample(out_channels)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h2 w2"]:
        return self.upsample(self.block(x))


class Encoder(nn.Module):
    """Images to real numbers whose signs are the code."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        self.stem_patch = config.stem_patch
        widths = config.widths
        ins = (widths[0], *widths[:-1])
        self.conv_in = nn.Conv2d(RGB * config.stem_patch**2, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            EncoderLevel(ins[i], widths[i], config, coarsest=i == len(widths) - 1)
            for i in range(len(widths))
        )
        self.mid_block = res_blocks(widths[-1], widths[-1], config.mid_blocks, config.norm_groups)
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], config.n_bits, 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        h = self.conv_in(space_to_depth(images, self.stem_patch))
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """Codes (-1 or +1) to images, not clamped.

    `up` and `adaptive` are numbered finest first, and run coarsest first.
    """

    def __init__(self, config: MagvitConfig):
        super().__init__()
        self.stem_patch = config.stem_patch
        widths = config.widths
        ins = (*widths[1:], widths[-1])
        self.conv_in = nn.Conv2d(config.n_bits, widths[-1], 3, padding=1)
        self.mid_block = res_blocks(widths[-1], widths[-1], config.mid_blocks, config.norm_groups)
        self.up = nn.ModuleList(
            DecoderLevel(ins[i], widths[i], config, finest=i == 0) for i in range(len(widths))
        )
        if config.adaptive_decoder:
            self.adaptive = nn.ModuleList(
                AdaptiveGroupNorm(width, config.n_bits, config.norm_groups) for width in ins
            )
        else:
            self.adaptive = None
        self.norm_out = group_norm(widths[0], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[0], RGB * config.stem_patch**2, 3, padding=1)

    def forward(self, codes: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b c h w"]:
        h = self.mid_block(self.conv_in(codes))
        for i in reversed(range(len(self.up))):
            if self.adaptive is not None:
                h = self.adaptive[i](h, codes)
            h = self.up[i](h)
        return depth_to_space(self.conv_out(F.silu(self.norm_out(h))), self.stem_patch)


class TokenizerOutput(NamedTuple):
    """What the loss needs of a forward pass."""

    reconstruction: Float[Tensor, "b c h w"]  # not clamped
    z: Float[Tensor, "b d gh gw"]  # the encoder's output before the sign


class MagvitTokenizer(nn.Module):
    """Encoder, lookup-free quantiser and decoder."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        """One real number per bit and cell, whose sign is the bit, for images in [-1, 1].

        Raises ValueError if the images' sides are not multiples of `config.downscale`.
        """
        self.config.grid(images.shape[-2], images.shape[-1])
        return self.encoder(images)

    def to_ids(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b gh gw"]:
        """The tokens (int32, in [0, 2**n_bits)) of images in [-1, 1]."""
        return ids_from_signs(self.encode(images))

    def decode_ids(self, ids: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b c h w"]:
        """Images in [-1, 1] (clamped) of tokens in [0, 2**n_bits)."""
        codes = signs_from_ids(ids, self.config.n_bits)
        return self.decoder(codes.to(self.decoder.conv_in.weight.dtype)).clamp(-1.0, 1.0)

    def forward(self, images: Float[Tensor, "b c h w"]) -> TokenizerOutput:
        """Reconstruction and z: the gradient passes straight through the sign to the encoder."""
        z = self.encode(images)
        return TokenizerOutput(reconstruction=self.decoder(straight_through(z)), z=z)


def res_blocks(
    in_channels: int, out_channels: int, n_blocks: int, norm_groups: int
) -> nn.Sequential:
    """`n_blocks` residual blocks; the first one changes the width."""
    ins = [in_channels, *[out_channels] * (n_blocks - 1)][:n_blocks]
    return nn.Sequential(*(ResBlock(width, out_channels, norm_groups) for width in ins))
