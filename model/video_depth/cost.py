"""The cost of a forward pass before it is run: peak memory, and floating point operations.

Memory of inference: weights and input, and on top the largest of three phases, each at its widest
point. With h x w patches, n frames of all clips, m frames per step, widths C of the encoder, c of a
motion module and F of the fusion blocks, these tensors are alive at once:

- encoder: in the last block's MLP, its input, the stream, its norm and both activations of width
  4C; and three taps;
- time: in a motion module's feed-forward (mostly the last one's, at 2h x 2w), activations of 8c, 4c
  and 4c and five tensors of width c; and the four taps and two maps of width F;
- pixels: m frames in the last fusion block (F at 8h x 8w before and after its convolution, three
  maps at half of that) or in the last two convolutions (14h x 14w); and the taps, the path at
  2h x 2w and the depth of all n frames.

In mixed precision activations have two bytes, and each matrix a copy that is kept; input, taps,
norms, resized maps, the encoder's stream and the last two convolutions stay float32. The libraries'
own memory (cuDNN's workspaces, the allocator's rounding, CUDA's context) is not counted. CPU runs
of vits (140 to 518 px) grew the process by 1.2 to 1.3 times the prediction.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.video_depth.config import MAX_FRAMES, N_TAPS, OUTPUT_WIDTH, PATCH, VideoDepthConfig
from model.video_depth.model import VideoDepth

# bfloat16 and float16 are autocast; weights stay float32
Precision = Literal["float32", "bfloat16", "float16"]

FULL, HALF = 4, 2  # bytes of a number


@lru_cache(64)
def peak_bytes(
    config: VideoDepthConfig,
    *,
    size: tuple[int, int],
    n_clips: int = 1,
    n_frames: int = MAX_FRAMES,
    precision: Precision = "float32",
    frames_per_step: int = 4,
) -> int:
    """Peak memory of a forward pass without gradients on inputs of `size` (`video.network_size`).

    Official windows always run 32 frames. Raises ValueError unless the sides are multiples of 14.
    """
    rows, columns = config.grid(*size)
    n, patches = n_clips * n_frames, rows * columns
    act = FULL if precision == "float32" else HALF
    copy = 0 if act == FULL else HALF  # of a float32 tensor, for a layer in half precision
    weights = (FULL + copy) * sum(value.numel() for value in _on_meta(config).state_dict().values())
    inputs = FULL * n * 3 * size[0] * size[1]

    # Encoder
    tap = FULL * n * (patches + 1) * config.width
    encoder = n * (patches + 1) * config.width * (3 * FULL + 8 * act) + (N_TAPS - 1) * tap

    # Time
    coarse = -(-rows // 2) * -(-columns // 2)
    positions = (patches, coarse, patches, 4 * patches)  # of the four motion modules
    stream = (8 + 4 + 4) * act + 3 * act + 2 * FULL
    widest = max(
        width * place for width, place in zip(config.motion_widths, positions, strict=True)
    )
    waiting = 2 * act * n * patches * config.head_width
    time = N_TAPS * tap + waiting + n * widest * stream

    # Pixels
    fusion = config.head_width * (64 * (FULL + copy + act) + 3 * 16 * act)
    last = PATCH**2 * (config.head_width // 2 + OUTPUT_WIDTH) * FULL
    path, depth = act * n * 4 * patches * config.head_width, FULL * n * size[0] * size[1]
    pixels = N_TAPS * tap + path + depth + min(n, frames_per_step) * patches * max(fusion, last)
    return weights + inputs + max(encoder, time, pixels)


@lru_cache(64)
def flops_per_frame(
    config: VideoDepthConfig, *, size: tuple[int, int], n_frames: int = MAX_FRAMES
) -> float:
    """Floating point operations per frame of an `n_frames` clip; a multiply-add counts as two.

    PyTorch's count of matrix products, convolutions and attention; norms and activations are not
    counted. Raises ValueError as the network does.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        _on_meta(config)(torch.empty(1, n_frames, 3, *size, device="meta"))
    return counter.get_total_flops() / n_frames


def _on_meta(config: VideoDepthConfig) -> VideoDepth:
    with torch.device("meta"):
        return VideoDepth(config)
