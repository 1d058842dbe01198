"""The loss of a tracker: its output and true tracks in, a scalar and its parts out.

Positions of every iteration count, later ones more, as in RAFT (Teed and Deng 2020,
arXiv:2003.12039); those of every window, as in CoTracker (Karaev et al. 2023, arXiv:2307.07635);
and depth as well as x and y, as in SpatialTracker (arXiv:2404.04319; without its ARAP term).
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model.spatial_tracker.config import STRIDE
from model.spatial_tracker.model import TrackerOutput


@dataclass(frozen=True, kw_only=True)
class TrackerLossConfig:
    """Weights of the terms. Positions are in pixels of the working picture, visibility in nats."""

    # Weight of an iteration over that of the next
    gamma: Annotated[float, Interval(gt=0, le=1)] = 0.8
    depth: Annotated[float, Ge(0)] = 1.0  # x and y have 1 each
    # Our choice: an unsure visibility (0.7 nats) weighs as much as errors of some pixels
    visibility: Annotated[float, Ge(0)] = 10.0
    huber_px: Annotated[float, Ge(0)] = 0.0  # errors below it count by their square; 0 is L1

    def __post_init__(self):
        if not 0 < self.gamma <= 1 or min(self.depth, self.visibility, self.huber_px) < 0:
            raise ValueError(f"{self}: expected gamma in (0, 1] and the other fields at least 0")


class TrackerLoss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # each term before its weight, detached


def tracker_loss(
    output: TrackerOutput,
    tracks: Float[Tensor, "b t p 3"],
    visible: Bool[Tensor, "b t p"],
    valid: Bool[Tensor, "b t p"],
    config: TrackerLossConfig,
) -> TrackerLoss:
    """Mean errors over all windows, in frames from each point's query on where it is `valid`.

    `tracks` are x, y px and depth, like the network's; where not valid they may be anything, also
    NaN. A frame in two windows counts twice. Errors of x and y are summed, and those of iterations
    with weights gamma^(iterations to follow). Depth counts in pixels, too: its range in the clip is
    as deep as the picture is wide. Visibility (binary cross-entropy) is that of a window's last
    iteration. Raises ValueError if nothing is valid.
    """
    since_query = torch.arange(tracks.shape[1])[:, None] >= output.query_frames
    counted = valid & since_query.to(valid.device)
    if not counted.any():
        raise ValueError(
            "no point is valid in any frame from its query on: leave such a batch out, or choose "
            "other queries"
        )
    errors, logits, labels = _counted_errors(output, tracks, visible, counted)
    distance = _robust(errors, config.huber_px).mean(dim=1)  # (i, 3)
    following = torch.arange(len(distance) - 1, -1, -1, device=distance.device)
    x, y, depth = (config.gamma**following) @ distance
    parts = {
        "position": x + y,
        "depth": depth,
        "visibility": F.binary_cross_entropy_with_logits(logits, labels),
    }
    total = (
        parts["position"] + config.depth * parts["depth"] + config.visibility * parts["visibility"]
    )
    return TrackerLoss(total=total, parts={name: part.detach() for name, part in parts.items()})


def _counted_errors(
    output: TrackerOutput,
    tracks: Float[Tensor, "b t p 3"],
    visible: Bool[Tensor, "b t p"],
    counted: Bool[Tensor, "b t p"],
) -> tuple[Float[Tensor, "i m 3"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Errors of x, y and depth (px), visibility logits and labels, where `counted` in a window."""
    near, far, n_cells = output.depth_range
    px_per_depth = STRIDE * n_cells / (far - near)
    unit = torch.stack([torch.ones_like(far), torch.ones_like(far), px_per_depth], dim=-1)
    errors, logits, labels = [], [], []
    for start, points, found, visibility in output.windows:
        frames = slice(start, start + visibility.shape[1])
        chosen = counted[:, frames][:, :, points]
        n = chosen.shape[1]  # fewer than the window's frames where it ends after the clip
        difference = found[:, :, :n] - tracks[:, frames][:, :, points]
        errors.append((difference * unit[:, None, None])[:, chosen])
        logits.append(visibility[:, :n][chosen])
        labels.append(visible[:, frames][:, :, points][chosen].to(visibility.dtype))
    return torch.cat(errors, dim=1), torch.cat(logits), torch.cat(labels)


def _robust(error: Float[Tensor, "*any"], huber_px: float) -> Float[Tensor, "*any"]:
    """|error|, or Huber's function with slope 1 above `huber_px`."""
    if huber_px == 0:
        return error.abs()
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_px)
    return huber / huber_px
