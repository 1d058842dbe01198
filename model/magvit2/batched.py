"""Many frames through a tokenizer: cut into chunks that fit into memory, optionally in bfloat16.

Frames do not depend on each other, so the cut changes no token but for the last bits of sums.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig

Precision = Literal[
    "float32", "bfloat16"
]  # bfloat16 is autocast, over weights that stay float32: for GPUs

CPU_BUDGET = 2 << 30  # bytes
GPU_SHARE = 0.5  # of the card's free memory; convolutions want workspace, too


def encode_frames(
    tokenizer: MagvitTokenizer,
    images: Float[Tensor, "f c h w"],
    *,
    precision: Precision = "float32",
    budget: int | None = None,
) -> Int[Tensor, "f gh gw"]:
    """The tokens (int32) of images in [-1, 1], on the tokenizer's device. `budget` is in bytes, see
    `memory_budget`.
    """
    return _in_chunks(
        tokenizer.to_ids, tokenizer, images, (images.shape[-2], images.shape[-1]), precision, budget
    )


def decode_frames(
    tokenizer: MagvitTokenizer,
    ids: Int[Tensor, "f gh gw"],
    *,
    precision: Precision = "float32",
    budget: int | None = None,
) -> Float[Tensor, "f c h w"]:
    """Images in [-1, 1] (float32) of tokens, on the tokenizer's device."""
    gh, gw = ids.shape[1:]
    size = (gh * tokenizer.config.downscale, gw * tokenizer.config.downscale)
    return _in_chunks(tokenizer.decode_ids, tokenizer, ids, size, precision, budget).float()


def bytes_per_frame(config: MagvitConfig, height: int, width: int) -> int:
    """Bytes that one frame of this many pixels takes at the worst moment of encoding or decoding,
    in float32.

    An upper bound that holds for bfloat16, too, whose norms and sums stay float32. Weights are not
    counted.
    """
    numbers = 0
    for i, (own, below) in enumerate(
        zip(config.widths, (*config.widths[1:], config.widths[-1]), strict=True)
    ):
        cells = height * width // (config.stem_patch * 2**i) ** 2
        # A level's second block: its input, its first half's output, the norm of that and its
        # swish, while the level's own input still waits. A decoder level's input, and so the first
        # half of its first block, is as wide as below.
        numbers = max(numbers, cells * max(4 * own + max(own, below), 3 * below))
    return 4 * (numbers + 2 * 3 * height * width)


def memory_budget(device: torch.device) -> int:
    """Bytes for one chunk: half of what a GPU has free now, or 2 GiB on a CPU."""
    return (
        int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else CPU_BUDGET
    )


def chunk_sizes(n_frames: int, frame_bytes: int, budget: int) -> list[int]:
    """How many frames to run at once, each time: as few times as the budget allows, and as alike as
    can be.

    A frame that is larger than the budget runs alone.
    """
    n_chunks = -(-n_frames // max(1, budget // frame_bytes))
    return [n_frames // n_chunks + (i < n_frames % n_chunks) for i in range(n_chunks)]


@torch.no_grad()
def _in_chunks(
    run: Callable[[Tensor], Tensor],
    tokenizer: MagvitTokenizer,
    frames: Tensor,
    size: tuple[int, int],
    precision: Precision,
    budget: int | None,
) -> Tensor:
    device = tokenizer.decoder.conv_in.weight.device
    budget = memory_budget(device) if budget is None else budget
    chunks = frames.split(
        chunk_sizes(len(frames), bytes_per_frame(tokenizer.config, *size), budget)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return torch.cat([run(chunk.to(device)) for chunk in chunks])
