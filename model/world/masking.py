"""MaskGIT corruption of a training clip: wrong tokens everywhere, masked cells from some frame on.

The recipe of 1xgpt (MaskGIT, arXiv:2202.04200, within a frame), which RoboScape builds on.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.training.parallel import ALONE, Workers
from model.world.config import FACTOR_VOCAB, MaskingConfig


@dataclass(frozen=True)
class Corrupted:
    """The network's input, with some wrong tokens, and the cells to predict (`masked`)."""

    rgb: Int[Tensor, "b t gh gw"]
    depth: Int[Tensor, "b t gh gw"]
    masked: Bool[Tensor, "b t gh gw"]


def corrupt(
    rgb_tokens: Int[Tensor, "b t gh gw"],
    depth_tokens: Int[Tensor, "b t gh gw"],
    config: MaskingConfig,
    generator: torch.Generator,
    workers: Workers = ALONE,
) -> Corrupted:
    """Tokens with random wrong factors, and the cells to mask, the same in both streams.

    Each clip draws one replacement rate. Noise is drawn on the generator's device, so that a CPU
    generator gives the same wherever the tokens are; and for the global batch, of which these clips
    are a rank's shard, so that it is the same for any number of workers.
    """
    b, t, gh, gw = rgb_tokens.shape
    shape = (b * workers.n, t, gh, gw)
    rate = config.max_replacement_rate * torch.rand(
        shape[0], 1, 1, 1, generator=generator, device=generator.device
    )
    return Corrupted(
        replace_factors(rgb_tokens, rate, generator, workers),
        replace_factors(depth_tokens, rate, generator, workers),
        workers.shard(choose_masked(shape, config, generator)).to(rgb_tokens.device),
    )


def replace_factors(
    ids: Int[Tensor, "b t gh gw"],
    rate: Float[Tensor, "n 1 1 1"],
    generator: torch.Generator,
    workers: Workers = ALONE,
) -> Int[Tensor, "b t gh gw"]:
    """The ids; at its clip's rate, each 9-bit factor is replaced by a random one."""
    shape, place = (len(rate), *ids.shape[1:]), {"generator": generator, "device": generator.device}
    factors = []
    for factor in (ids % FACTOR_VOCAB, ids // FACTOR_VOCAB):
        wrong = workers.shard(torch.rand(shape, **place) < rate)
        noise = workers.shard(torch.randint(FACTOR_VOCAB, shape, dtype=ids.dtype, **place))
        factors.append(torch.where(wrong.to(ids.device), noise.to(ids.device), factor))
    return factors[0] + FACTOR_VOCAB * factors[1]


def choose_masked(
    shape: tuple[int, ...], config: MaskingConfig, generator: torch.Generator
) -> Bool[Tensor, "b t gh gw"]:
    """The masked cells, from some frame on; each frame draws its ratio cos(πu/2), u uniform.

    The first frame with masked cells is uniform in [n_prompt_frames, t-1], per clip; it is the only
    predicted one whose earlier frames have no masked cell. With a clean context all have such a
    past, so masking starts right after the prompt.
    """
    b, t, gh, gw = shape
    if config.n_prompt_frames >= t:
        raise ValueError(
            f"clips of {t} frames leave none to predict after {config.n_prompt_frames} prompt "
            "frames"
        )
    place = {"generator": generator, "device": generator.device}
    first = torch.randint(config.n_prompt_frames, t, (b, 1), **place)
    if config.context == "clean":
        first = torch.full_like(first, config.n_prompt_frames)
    ratio = torch.cos(math.pi / 2 * torch.rand(b, t, **place))
    ratio = torch.where(torch.arange(t, device=generator.device) >= first, ratio, 0.0)
    return torch.rand(b, t, gh, gw, **place) < ratio[..., None, None]
