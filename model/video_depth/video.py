"""A video's frames to depth at their size: preprocessing, windows over long videos, alignment.

Follows arXiv:2501.12375, Sec. 3.3. A long video is run in windows of 32 frames, ten of which are in
earlier windows, too, among them the video's first: on two of them the new window's scale and shift
are fitted.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from model.video_depth.config import MAX_FRAMES, PATCH
from model.video_depth.cost import Precision
from model.video_depth.model import VideoDepth
from model.video_depth.temporal_head import resize

INPUT_SIZE = 518  # px, shorter side of the network's input in the published procedure
WIDEST = 1.78  # longer / shorter side; above it the input shrinks as for WIDEST_TARGET
WIDEST_TARGET = 1.777
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]

STEP = 22  # new frames per window
BLEND = 8  # frames over which one window fades into the next
# Frames of a window that the next window starts with
KEY_FRAMES = (0, 12, *range(MAX_FRAMES - BLEND, MAX_FRAMES))
REFERENCES = KEY_FRAMES[:2]  # scale and shift are fitted on these
FLAT = 1e-12  # variance / mean square: a prediction below it is constant, and no scale is fitted

Windows = Literal["official", "direct"]


def estimate_depth(
    network: VideoDepth,
    frames: UInt8[np.ndarray, "b t h w 3"],
    *,
    input_size: int = INPUT_SIZE,
    windows: Windows = "official",
    precision: Precision = "float32",
    frames_per_step: int = 4,
) -> Float32[np.ndarray, "b t h w"]:
    """Depth >= 0 of RGB videos at their own size, in `network.config.units`.

    `windows="official"` is the published procedure: any length, but a clip of 16 runs as 32 frames,
    the last one repeated, and numbers depend on the whole video. `"direct"` is one forward pass of
    at most 32 frames, without padding. `input_size`: px of the input's shorter side (see
    `network_size`); 280 costs about a fifth of 518. bfloat16 and float16 are CUDA's autocast;
    float32 convolutions use TF32 there unless `torch.backends.cudnn.allow_tf32` is off. All b
    videos run together on the network's device: see `cost.peak_bytes`.

    Alignment spreads NaN and infinity that the network made (float16 can overflow). Raises
    ValueError for empty videos, frames of another dtype, more than 32 frames with "direct", mixed
    precision without CUDA, or an unknown choice.
    """
    n_frames, height, width = frames.shape[1:4]
    device = network.pretrained.cls_token.device
    _check_request(frames, windows, precision, device)
    size, mixed = network_size(height, width, input_size), nullcontext()
    if precision != "float32":
        mixed = torch.autocast("cuda", getattr(torch, precision))

    def run(chosen: list[int]) -> Float32[Tensor, "b i h w"]:
        pixels = torch.from_numpy(frames[:, chosen]).to(device)
        depth = network(normalised(pixels, size), frames_per_step=frames_per_step).float()
        return resize(depth, (height, width)).cpu()

    with torch.inference_mode(), mixed:
        if windows == "direct":
            return run(list(range(n_frames))).numpy()
        depths = (run(chosen) for chosen in window_frames(n_frames))
        return join_windows(depths, align=not network.config.metric)[:, :n_frames].numpy()


def _check_request(
    frames: UInt8[np.ndarray, "b t h w 3"], windows: str, precision: str, device: torch.device
) -> None:
    if not frames.size:
        raise ValueError(
            f"videos of shape {frames.shape}: expected at least one frame of at least one pixel"
        )
    if frames.dtype != np.uint8:
        raise ValueError(f"frames of {frames.dtype}: expected uint8, RGB in 0-255; convert them")
    for name, value, choices in (
        ("windows", windows, Windows),
        ("precision", precision, Precision),
    ):
        if value not in get_args(choices):
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(get_args(choices))}")
    if windows == "direct" and frames.shape[1] > MAX_FRAMES:
        raise ValueError(
            f"a video of {frames.shape[1]} frames with windows='direct': a forward pass takes at "
            f"most {MAX_FRAMES}; use windows='official' or cut it"
        )
    if precision != "float32" and device.type != "cuda":
        raise ValueError(
            f"precision={precision!r} on {device}: mixed precision is for CUDA; use 'float32' here"
        )


def network_size(height: int, width: int, input_size: int = INPUT_SIZE) -> tuple[int, int]:
    """Height and width of the network's input: multiples of 14, with about the frames' aspect.

    The shorter side becomes `input_size`, or the next multiple of 14 above. For frames wider than
    16:9 it is smaller, so that the longer side stays near that of 16:9. Raises ValueError if it
    would be below 1 px.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > WIDEST:
        input_size = round(int(input_size * WIDEST_TARGET / ratio) / PATCH) * PATCH
    if input_size < 1:
        raise ValueError(
            f"frames of {height} x {width} px leave an input size of {input_size}: choose a larger "
            "one"
        )
    scale = input_size / min(height, width)

    def side(pixels: int) -> int:
        nearest = round(pixels * scale / PATCH) * PATCH
        return nearest if nearest >= input_size else math.ceil(pixels * scale / PATCH) * PATCH

    return side(height), side(width)


def normalised(
    frames: UInt8[Tensor, "b t h w 3"], size: tuple[int, int]
) -> Float32[Tensor, "b t 3 h2 w2"]:
    """Frames resized (bicubic, no antialiasing) and normalised by ImageNet's mean and deviation."""
    constants = torch.tensor([MEAN, STD], dtype=torch.float64, device=frames.device)
    mean, std = constants.view(2, 3, 1, 1)

    def one(frame: Tensor) -> Tensor:  # one at a time: float64 images are large
        pixels = rearrange(frame, "h w c -> 1 c h w").float() / 255
        pixels = torch.nn.functional.interpolate(
            pixels, size=size, mode="bicubic", align_corners=False
        )[0]
        return ((pixels - mean) / std).float()

    return torch.stack([torch.stack([one(frame) for frame in video]) for video in frames])


def window_frames(n_frames: int) -> list[list[int]]:
    """For each window, the numbers of its 32 frames.

    Windows start every 22 frames. In all but the first, the key frames of the window before replace
    the first ten frames (so the first is always the video's first). After its end the video's last
    frame is repeated.
    """
    chosen: list[list[int]] = []
    for start in range(0, n_frames, STEP):
        window = [min(start + i, n_frames - 1) for i in range(MAX_FRAMES)]
        if chosen:
            window[: len(KEY_FRAMES)] = [chosen[-1][i] for i in KEY_FRAMES]
        chosen.append(window)
    return chosen


def join_windows(
    depths: Iterator[Float[Tensor, "b 32 h w"]], *, align: bool
) -> Float[Tensor, "b n h w"]:
    """One depth video from the depths of its windows: each is fitted to those before, and blended.

    Scale and shift are fitted on two frames: the video's first, and number 12 of the window before.
    Without `align` (metric depth) windows are only blended. The result includes the padding of the
    last window.
    """
    first = next(depths)
    references = first[:, REFERENCES]
    joined = list(first.unbind(dim=1))
    weights = torch.linspace(0, 1, BLEND, dtype=first.dtype, device=first.device).tolist()
    for window in depths:
        if align:
            scale, shift = fit_scale_shift(window[:, : len(REFERENCES)], references)
            window = (window * scale + shift).clamp(min=0)
        new = window[:, len(REFERENCES) :].unbind(dim=1)
        for weight, old, frame in zip(
            weights, range(len(joined) - BLEND, len(joined)), new, strict=False
        ):
            joined[old] = (1 - weight) * joined[old] + weight * frame
        joined.extend(new[BLEND:])
        references = torch.stack([references[:, 0], window[:, REFERENCES[1]]], dim=1)
    return torch.stack(joined, dim=1)


def fit_scale_shift(
    predicted: Float[Tensor, "b i h w"], reference: Float[Tensor, "b i h w"]
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """Scale and shift per clip that fit `predicted` to `reference` by least squares.

    1 and 0 for a constant prediction. Sums are float64; the published code has them in float32.
    """
    x, y = predicted.double(), reference.double()
    mean_x, mean_y = (v.mean(dim=(1, 2, 3), keepdim=True) for v in (x, y))
    variance = (x - mean_x).square().mean(dim=(1, 2, 3), keepdim=True)
    covariance = ((x - mean_x) * (y - mean_y)).mean(dim=(1, 2, 3), keepdim=True)
    flat = variance <= FLAT * mean_x.square()
    scale = torch.where(flat, 1.0, covariance / variance)
    shift = torch.where(flat, 0.0, mean_y - scale * mean_x)
    return scale.to(predicted.dtype), shift.to(predicted.dtype)
