"""The loss of a depth network: its output and the true depth of clips in, a scalar and parts out.

Relative depth: MiDaS's scale-and-shift-invariant loss (Ranftl et al. 2020, arXiv:1907.01341, Sec.
5) and the temporal gradient matching of Video Depth Anything (arXiv:2501.12375, Sec. 3.2). Scale
and shift are fitted per clip, not per frame, so that flicker costs something. Metric depth: the
same terms on the logarithm, without a fit.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SPREAD = 1e-6  # limits the scale of a flat clip
SMALLEST_CORRELATION = 0.01  # a prediction is not inverted to fit
NEAREST = 1e-2  # m, added before the logarithm: keeps it and its slope finite at 0


@dataclass(frozen=True, kw_only=True)
class DepthLossConfig:
    """Weights of the terms: point and temporal as in the paper, spatial gradient as in MiDaS.

    `negative`, against depths below 0, is our addition. In training from scratch a temporal weight
    of 10 delays moving objects for long; 1 does not.
    """

    point: Annotated[float, Ge(0)] = 1.0
    gradient: Annotated[float, Ge(0)] = 0.5
    temporal: Annotated[float, Ge(0)] = 10.0
    negative: Annotated[float, Ge(0)] = 1.0
    # Of the gradient term, each half as fine as the one before
    n_scales: Annotated[int, Interval(ge=1, le=32)] = 4
    # A pixel is still if its normalised true depth changes less than this between two frames
    still: Annotated[float, Ge(0)] = 0.05


class DepthLoss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # each term before its weight, detached


def depth_loss(
    predicted: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    config: DepthLossConfig,
    *,
    metric: bool,
) -> DepthLoss:
    """The training loss; `target` is metres for a `metric` network, else inverse depth in any unit.

    `predicted` should be `network(frames, signed=True)`: after the last ReLU, pixels at 0 get no
    gradient, and since the relative loss allows any shift, training from scratch often puts most
    pixels there and stops learning. The `negative` term raises depths below 0, so that the ReLU
    cuts nothing in the end.

    Only valid pixels of the target are read; others may be NaN. Raises ValueError for a clip
    without valid pixels.
    """
    empty = (~valid.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"clips {empty} have no valid pixel: leave them out")
    predicted, target = predicted.float(), torch.where(valid, target, 1.0).float()
    if metric:
        x, y = log_depth(predicted), log_depth(target)
    else:
        y = normalised_clips(target, valid)
        x = fitted(predicted, y, valid)
    parts = {
        "point": masked_mean((x - y).abs(), valid),
        "gradient": gradient_matching(x, y, valid, config.n_scales),
        "temporal": temporal_gradient_matching(x, y, valid, config.still),
        "negative": F.relu(-predicted).mean(),
    }
    total = sum(getattr(config, name) * part for name, part in parts.items())
    return DepthLoss(
        total=torch.as_tensor(total), parts={name: part.detach() for name, part in parts.items()}
    )


def log_depth(depth: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Logarithm of metres + 0.01: errors are relative, and equal for depth and inverse depth."""
    return (F.relu(depth) + NEAREST).log()


def normalised_clips(
    x: Float[Tensor, "b t h w"], valid: Bool[Tensor, "b t h w"]
) -> Float[Tensor, "b t h w"]:
    """Each clip less its median, over its mean distance from it, of valid pixels (as MiDaS)."""

    def one(clip: Tensor, mask: Tensor) -> Tensor:
        values = clip[mask]
        centre = values.median()
        return (clip - centre) / (values - centre).abs().mean().clamp(min=SMALLEST_SPREAD)

    return torch.stack([one(clip, mask) for clip, mask in zip(x, valid, strict=True)])


def fitted(
    x: Float[Tensor, "b t h w"], y: Float[Tensor, "b t h w"], valid: Bool[Tensor, "b t h w"]
) -> Float[Tensor, "b t h w"]:
    """Each clip of x, scaled and shifted to y by least squares over its valid pixels.

    The first of MiDaS's two ways. The other, to normalise x as y, can trap an untrained network: a
    prediction with few pixels off its median is scaled up so much that no other detail can grow.
    """
    n_valid = valid.sum(dim=(1, 2, 3), keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0.0).sum(dim=(1, 2, 3), keepdim=True) / n_valid

    x = x - mean(x)
    x = x / mean(x.square()).clamp(min=SMALLEST_SPREAD**2).sqrt()
    correlation = mean(x * (y - mean(y)))  # times the standard deviation of y; that of x is now 1
    return mean(y) + correlation.clamp(min=SMALLEST_CORRELATION) * x


def gradient_matching(
    x: Float[Tensor, "b t h w"],
    y: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    n_scales: int,
) -> Float[Tensor, ""]:
    """The mean |gradient of x - y|, across and down, summed over scales (as MiDaS).

    A scale takes every 2nd, 4th, ... pixel. A difference counts if both of its pixels are valid.
    """
    error, total = x - y, x.new_zeros(())
    for scale in range(n_scales):
        e, v = (a[..., :: 2**scale, :: 2**scale] for a in (error, valid))
        total = total + masked_mean(e.diff(dim=-1).abs(), v[..., 1:] & v[..., :-1])
        total = total + masked_mean(e.diff(dim=-2).abs(), v[..., 1:, :] & v[..., :-1, :])
    return total


def temporal_gradient_matching(
    x: Float[Tensor, "b t h w"],
    y: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    still: float,
) -> Float[Tensor, ""]:
    """Mean of | |x[t+1] - x[t]| - |y[t+1] - y[t]| | over still pixels, valid in both frames.

    Where the true depth changes by `still` or more, at moving edges, neighbouring frames show
    different surfaces. 0 for a clip of one frame.
    """
    change, true_change = (a.diff(dim=1).abs() for a in (x, y))
    return masked_mean(
        (change - true_change).abs(), valid[:, 1:] & valid[:, :-1] & (true_change < still)
    )


def masked_mean(x: Float[Tensor, "*axes"], mask: Bool[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """The mean of x where the mask is set; 0 for an empty mask."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)
