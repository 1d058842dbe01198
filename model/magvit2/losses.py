"""The losses of a tokenizer: images and `TokenizerOutput` in, a scalar and its parts out.

Reconstruction and adversarial terms as in VQGAN (Esser et al. 2021, arXiv:2012.09841); entropy and
commitment terms of lookup-free quantisation as in MAGVIT-2 (Yu et al. 2023, section 3.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Interval
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model.colour import opponent
from model.magvit2.autoencoder import TokenizerOutput
from model.magvit2.quantizer import (
    FACTOR_SIZE,
    signs,
    signs_from_ids,
    split_ids,
    straight_through,
)

SMALLEST_SHARE = 1e-12  # of an unused code: keeps the gradient of its entropy finite
CHROMA_FACTOR = 8.0  # of squared chroma against squared luma in `cell_colour_loss`
RIDGE = 1e-3  # keeps the linear map finite where bits always agree

# Two batches of images in [-1, 1] -> one distance per image
Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """Weights of the terms. Pixels are in [-1, 1], entropies in bits per token.

    The entropy and commitment defaults come from a small search with `config.tiny` on rendered
    robot frames. A larger entropy weight uses more of the codebook without better reconstructions,
    and makes tokens of unchanged cells flicker.
    """

    l1: Annotated[float, Ge(0)] = 1.0
    l2: Annotated[float, Ge(0)] = 1.0
    perceptual: Annotated[float, Ge(0)] = 1.0  # used if a perceptual network is passed
    # L1 and L2 of the two chroma channels (BT.601), beside those of RGB: colours of small things
    chroma: Annotated[float, Ge(0)] = field(default=0.0, metadata={"added": True})
    # Of `cell_colour_loss`: the bits of small tokenizers name colours late, or never, without it
    cell_colour: Annotated[float, Ge(0)] = field(default=0.0, metadata={"added": True})
    commitment: Annotated[float, Ge(0)] = 0.1
    # Of (entropy per token - diversity * entropy of the batch)
    entropy: Annotated[float, Ge(0)] = 0.005
    diversity: Annotated[float, Ge(0)] = 1.0
    # Softness of the code assignment in the entropy terms; lower is harder
    temperature: Annotated[float, Gt(0)] = 0.5
    # Bits in each group of the batch entropy; 9 gives the 512-way factors
    group_bits: Annotated[int, Interval(ge=1, le=16)] = 9
    adversarial: Annotated[float, Ge(0)] = 0.1  # times the balance with the reconstruction terms
    # The caller passes the discriminator from this step on
    adversarial_start: Annotated[int, Ge(0)] = 20_000


class TokenizerLoss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # each term before its weight, detached


def tokenizer_loss(
    images: Float[Tensor, "b c h w"],
    output: TokenizerOutput,
    config: TokenizerLossConfig,
    *,
    pixel_weight: Float[Tensor, "b h w"] | None = None,
    perceptual: Perceptual | None = None,
    discriminator: nn.Module | None = None,
    last_layer: Tensor | None = None,
) -> TokenizerLoss:
    """The tokenizer's loss.

    `pixel_weight` (>= 0, scaled here to mean 1) weighs pixels in L1 and L2, such as moving ones. A
    `discriminator` needs `last_layer` (the decoder's `conv_out.weight`) to balance its gradient.
    """
    # Reconstruction
    error = output.reconstruction - images
    weight = torch.ones_like(error[:, :1])
    if pixel_weight is not None:
        weight = rearrange(pixel_weight / pixel_weight.mean(), "b h w -> b 1 h w")
    l1, l2 = (weight * error.abs()).mean(), (weight * error.square()).mean()
    parts = {"l1": l1, "l2": l2}
    reconstruction = config.l1 * l1 + config.l2 * l2
    if config.chroma:
        tint = opponent(error)[:, 1:]
        parts["chroma"] = (weight * (tint.abs() + tint.square())).mean()
        reconstruction = reconstruction + config.chroma * parts["chroma"]
    if perceptual is not None:
        parts["perceptual"] = perceptual(output.reconstruction, images).mean()
        reconstruction = reconstruction + config.perceptual * parts["perceptual"]

    # Quantisation
    parts["token_entropy"], parts["batch_entropy"] = entropy_terms(
        output.z, temperature=config.temperature, group_bits=config.group_bits
    )
    parts["commitment"] = (output.z - signs(output.z)).square().mean()
    entropy = parts["token_entropy"] - config.diversity * parts["batch_entropy"]
    total = reconstruction + config.entropy * entropy + config.commitment * parts["commitment"]
    if config.cell_colour:
        parts["cell_colour"] = cell_colour_loss(straight_through(output.z), images)
        total = total + config.cell_colour * parts["cell_colour"]

    # Adversarial
    if discriminator is not None:
        if last_layer is None:
            raise ValueError(
                "a discriminator's loss is balanced at last_layer: pass "
                "tokenizer.decoder.conv_out.weight"
            )
        parts["adversarial"] = -discriminator(output.reconstruction).mean()
        balance = gradient_balance(reconstruction, parts["adversarial"], last_layer)
        total = total + config.adversarial * balance * parts["adversarial"]
    return TokenizerLoss(total=total, parts={name: part.detach() for name, part in parts.items()})


def cell_colour_loss(
    codes: Float[Tensor, "b d gh gw"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """How badly the bits of a token say its cell's mean colour, by the best linear map of them.

    Ours. A decoder learns to use a bit only once the encoder gives it a meaning, and the other way
    round. Large plain areas get theirs first, and colours of small things late. A linear map needs
    no learning: it is fitted to each batch by least squares, so this term names colours from the
    first steps on. Mean squared error of luma and chroma, where chroma counts CHROMA_FACTOR times.
    """
    with torch.autocast(codes.device.type, enabled=False):
        grid = (codes.shape[-2], codes.shape[-1])
        cells = F.adaptive_avg_pool2d(opponent(images.float()), grid)
        scale = cells.new_tensor([1.0, CHROMA_FACTOR**0.5, CHROMA_FACTOR**0.5])
        colours = rearrange(cells, "b c gh gw -> (b gh gw) c") * scale
        bits = rearrange(codes.float(), "b d gh gw -> (b gh gw) d")
        bits = torch.cat([bits, torch.ones_like(bits[:, :1])], dim=1)
        # At its minimum the error does not depend on the map, so no gradient runs through it
        with torch.no_grad():
            ridge = RIDGE * len(bits) * torch.eye(bits.shape[1], device=bits.device)
            linear = torch.linalg.solve(bits.T @ bits + ridge, bits.T @ colours)
        return (bits @ linear - colours).square().mean()


def entropy_terms(
    z: Float[Tensor, "b d gh gw"], *, temperature: float = 1.0, group_bits: int = 9
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of a token's code, and entropy of the mean code, both in bits (0 to d).

    A token is softly assigned to the codes q in {-1, 1}^d by softmax(-|z - q|^2 / (2 temperature)).
    |z - q|^2 splits into one term per channel, so the assignment is d independent coins, heads with
    probability sigmoid(2 z / temperature): the first entropy is the exact sum over the coins, and
    the 2^d codes need not be listed.

    In the mean over tokens, channels are not independent. Its entropy is computed jointly within
    groups of `group_bits` channels (2^group_bits codes each) and summed over groups: an upper
    bound, exact if groups are independent. Single bits would be cheaper, but would miss two
    channels that always agree.
    """
    # Autocast would sum over codes in bfloat16, 12 % off
    with torch.autocast(z.device.type, enabled=False):
        logits = rearrange(z, "b d gh gw -> (b gh gw) d").float() * (2 / temperature)
        token_entropy = _coin_entropy(logits).sum(dim=1).mean()
        batch_entropy = torch.stack(
            [_mean_code_entropy(group) for group in logits.split(group_bits, dim=1)]
        ).sum()
    return token_entropy, batch_entropy


def _coin_entropy(logits: Float[Tensor, "i d"]) -> Float[Tensor, "i d"]:
    """Entropy in bits of a coin with p = sigmoid(logit); stable for large logits."""
    p = torch.sigmoid(logits)
    return (F.softplus(logits) - p * logits) / math.log(2)


def _mean_code_entropy(logits: Float[Tensor, "i d"]) -> Float[Tensor, ""]:
    """Entropy in bits of the codes of d coins, after their distribution is averaged over i."""
    n_bits = logits.shape[1]
    every_id = torch.arange(2**n_bits, dtype=torch.int32, device=logits.device)
    codes = rearrange(signs_from_ids(rearrange(every_id, "k -> 1 1 k"), n_bits), "1 d 1 k -> d k")
    mean = torch.softmax(logits @ codes / 2, dim=1).mean(dim=0)
    return -(mean * mean.clamp(min=SMALLEST_SHARE).log()).sum() / math.log(2)


def discriminator_loss(
    discriminator: nn.Module,
    images: Float[Tensor, "b c h w"],
    reconstruction: Float[Tensor, "b c h w"],
) -> Float[Tensor, ""]:
    """Hinge loss: real patches to above 1, reconstructed ones to below -1.

    No gradient reaches the tokenizer.
    """
    real, fake = discriminator(images), discriminator(reconstruction.detach())
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def gradient_balance(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Tensor
) -> Float[Tensor, ""]:
    """The factor, at most 1e4, that equals both terms' gradient norms at the last layer."""
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (found,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (wanted.norm() / (found.norm() + 1e-6)).clamp(max=1e4).detach()


def code_perplexity(ids: Int[Tensor, "b gh gw"]) -> tuple[float, float]:
    """The effective number of values (1 to 512) of each factor: 2 to the entropy of their counts.

    1 means a collapsed codebook. It cannot exceed the number of tokens given.
    """
    factors = rearrange(split_ids(ids), "b gh gw f -> f (b gh gw)").long()
    shares = [
        torch.bincount(factor, minlength=FACTOR_SIZE).double() / factor.numel()
        for factor in factors
    ]
    first, second = (
        2 ** (-torch.special.xlogy(share, share).sum() / math.log(2)).item() for share in shares
    )
    return first, second
