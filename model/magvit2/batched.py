"""Many frames through a tokenizer in chunks that fit into memory, optionally in bfloat16.

Frames do not depend on each other, so chunks change no more than the last bits of sums.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig

# bfloat16, for GPUs, is autocast; weights stay float32
Precision = Literal["float32", "bfloat16"]

CPU_BUDGET = 2 << 30  # bytes
GPU_SHARE = 0.5  # of the GPU's free memory: convolutions need workspace, too


def encode_frames(
    tokenizer: MagvitTokenizer,
    images: Float[Tensor, "f c h w"],
    *,
    precision: Precision = "float32",
    budget: int | None = None,
) -> Int[Tensor, "f gh gw"]:
    """The tokens (int32) of images in [-1, 1], on the tokenizer's device.

    `budget` is the memory for a chunk in bytes, that of `memory_budget` unless given.
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
    """Images in [-1, 1] (float32) of tokens, on the tokenizer's device; `budget` as above."""
    gh, gw = ids.shape[1:]
    size = (gh * tokenizer.config.downscale, gw * tokenizer.config.downscale)
    return _in_chunks(tokenizer.decode_ids, tokenizer, ids, size, precision, budget).float()


def bytes_per_frame(config: MagvitConfig, height: int, width: int) -> int:
    """Peak bytes of encoding or decoding one frame of this size in float32, without weights.

    An upper bound, also in bfloat16, whose norms and sums stay float32.
    """
    numbers, coarser = 0, (*config.widths[1:], config.widths[-1])
    for i, (own, below) in enumerate(zip(config.widths, coarser, strict=True)):
        cells = height * width // (config.stem_patch * 2**i) ** 2
        # In a level's second block are alive: its input, the output of its first half, the norm and
        # the swish of that, and the level's input. A decoder level's input, and so the first half
        # of its first block, is as wide as the coarser level.
        numbers = max(numbers, cells * max(4 * own + max(own, below), 3 * below))
    return 4 * (numbers + 2 * 3 * height * width)


def memory_budget(device: torch.device) -> int:
    """Bytes for one chunk: half of a GPU's free memory, or 2 GiB on a CPU."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return CPU_BUDGET


def chunk_sizes(n_frames: int, frame_bytes: int, budget: int) -> list[int]:
    """Numbers of frames in the chunks: as few chunks as the budget allows, as equal as possible.

    A frame that is larger than the budget is a chunk by itself.
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
