"""What a tracker is trained on: its output and true tracks in, one scalar and its parts out.

Positions of every iteration count, later ones more, as in RAFT (Teed and Deng 2020,
arXiv:2003.12039); those of every window, as in CoTracker (Karaev et al. 2023, arXiv:2307.07635);
and depth beside x and y, as in SpatialTracker (arXiv:2404.04319; its ARAP term is left out). The
training loop is the caller's:

    output = network(frames, depth, query_frames, query_points)
    loss = tracker_loss(output, tracks, visible, valid, config)          # .total.backward(), .parts for the log
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model.spatial_tracker.config import STRIDE
from model.spatial_tracker.model import TrackerOutput


@dataclass(frozen=True, kw_only=True)
class TrackerLossConfig:
    """Weights of the terms. Positions are in pixels of the working picture, visibility is in nats."""

    gamma: float = 0.8  # weight of an iteration, as a share of the next one's
    depth: float = 1.0  # x and y have 1 each
    # A choice of ours: puts an unsure visibility (0.7 nats) beside errors of some pixels
    visibility: float = 10.0
    huber_px: float = 0.0  # errors below it count by their square; 0 is L1

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

    `tracks` hold x, y px and depth as the network's do; where they are not valid they may hold
    anything, NaN too. A frame that two windows share counts twice. Errors of x and y are summed,
    and those of iterations are summed with weights gamma^(iterations to follow). Depth counts in
    pixels as well: its range in the clip is as deep as the picture is wide. Visibility (binary
    cross-entropy) is that of a window's last iteration. Raises ValueError if nothing is valid.
    """
    since_query = torch.arange(tracks.shape[1])[:, None] >= output.query_frames
    counted = valid & since_query.to(valid.device)
    near, far, n_cells = output.depth_range
    px_per_depth = STRIDE * n_cells / (far - near)
    unit = torch.stack([torch.ones_like(far), torch.ones_like(far), px_per_depth], dim=-1)[
        :, None, None
    ]

    errors, logits, labels = (
        [],
        [],
        [],
    )  # of the counted points and frames of all windows, (i, m, 3) and (m)
    for start, points, found, visibility in output.windows:
        # Shorter where the window reaches beyond the clip
        frames = slice(start, start + visibility.shape[1])
        picked = counted[:, frames][:, :, points]
        n = picked.shape[1]
        errors.append(((found[:, :, :n] - tracks[:, frames][:, :, points]) * unit)[:, picked])
        logits.append(visibility[:, :n][picked])
        labels.append(visible[:, frames][:, :, points][picked].to(visibility.dtype))
    if not sum(len(each) for each in logits):
        raise ValueError(
            "no point is valid in any frame from its query on: leave such a batch out, or choose other queries"
        )

    distance = _robust(torch.cat(errors, dim=1), config.huber_px).mean(dim=1)  # (i, 3)
    following = torch.arange(len(distance) - 1, -1, -1, device=distance.device)
    x, y, depth = (config.gamma**following) @ distance
    parts = {
        "position": x + y,
        "depth": depth,
        "visibility": F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels)),
    }
    total = (
        parts["position"] + config.depth * parts["depth"] + config.visibility * parts["visibility"]
    )
    return TrackerLoss(total=total, parts={name: part.detach() for name, part in parts.items()})


def _robust(error: Float[Tensor, "*any"], huber_px: float) -> Float[Tensor, "*any"]:
    """|error|, or Huber's function with slope 1 beyond `huber_px`."""
    if huber_px == 0:
        return error.abs()
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_px) / huber_px
