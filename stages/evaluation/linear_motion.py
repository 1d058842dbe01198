"""The baseline of linear motion: frame t from the true frames t-1 and t-2, by optical flow.

Each pixel of frame t-1 moves on as it moved since frame t-2. The flow is dense inverse search, as
in `stages.keypoints.dense_flow`. Frame 1 is a copy of frame 0. The two true frames exist under
teacher forcing only.
"""

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor

from stages.keypoints.dense_flow import LEAST_SIDE_PX, flow_method
from stages.tokenizer.images import images_to_rgb

APART_PX = 1.0  # flows that differ by more meet at the edge of something that moves

Flow = Float32[np.ndarray, "h w 2"]
Image = Float32[np.ndarray, "h w c"]


def carry_on(video: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"] | None:
    """The video as its linear motion predicts it; None for frames too small for flow."""
    if min(video.shape[-2:]) < LEAST_SIDE_PX:
        return None
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in images_to_rgb(video)]
    frames = np.ascontiguousarray(rearrange(video.cpu().numpy(), "t c h w -> t h w c"))
    expected, method = [frames[0], frames[0]], flow_method(finest=0)
    for t in range(2, len(frames)):
        back = method.calc(grey[t - 1], grey[t - 2], None)  # type: ignore[call-overload]
        expected.append(moved_on(frames[t - 1], np.asarray(back, np.float32)))
    carried = rearrange(np.stack(expected[: len(frames)]), "t h w c -> t c h w")
    return torch.from_numpy(carried).to(video.device)


def moved_on(image: Image, back: Flow) -> Image:
    """The image after one more step of its motion.

    back: from each pixel to its place in the image before; it moves on by -back.
    """
    # Each pixel takes its value from where its own motion comes from: smooth, without holes
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source = (x + back[..., 0], y + back[..., 1])
    moved = cv2.remap(image, *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = moved.reshape(image.shape)
    # A pixel at rest keeps its value even where something now moves over it: paint that on top,
    # the fastest last, as it is mostly the nearest
    column, row = (np.rint(at).astype(int) for at in (x - back[..., 0], y - back[..., 1]))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = back[row.clip(0, height - 1), column.clip(0, width - 1)]
    speed = np.linalg.norm(back, axis=-1)
    paints = inside & (np.linalg.norm(there - back, axis=-1) > APART_PX)
    paints &= speed > np.linalg.norm(there, axis=-1)
    order = np.flatnonzero(paints)
    order = order[np.argsort(speed.ravel()[order], kind="stable")]
    moved[row.ravel()[order], column.ravel()[order]] = image.reshape(-1, image.shape[-1])[order]
    return moved
