"""Point tracks: which of them move by themselves, and the token cells under them.

RoboScape (arXiv:2506.23135) section 3.3 keeps the K tracks that move most. A moving camera makes
the whole background "active", so camera motion can be compensated before tracks are ranked. Tracks
are (x, y) as shares of the frame's width and height; a point outside [0, 1) is not visible.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

# With fewer common points the camera counts as still: some homography fits any 4 points
MIN_POINTS = 8


@dataclass(frozen=True)
class ActiveTracks:
    """The selected tracks, in order of motion; unused places are zeros and never visible."""

    tracks: Float[Tensor, "b t k 2"]
    visible: Bool[Tensor, "b t k"]
    index: Int[Tensor, "b k"]  # number of the given point; -1 in unused places
    motion: Float[Tensor, "b k"]  # path length, as a share of the frame
    # Mean path length that the camera's homographies explain; 0 without compensation
    camera_motion: Float[Tensor, " b"]


def select_active_tracks(
    tracks: Float[Tensor, "b t p 2"],
    visible: Bool[Tensor, "b t p"],
    k: int = 64,
    *,
    compensate_camera: bool = False,
    min_motion: float = 0.03,
) -> ActiveTracks:
    """The k tracks with the longest path M_i = Σ_t |p_i(t+1) - p_i(t)| that leave their start.

    The paper sums all steps; here a step counts only if the point is visible at both ends. A track
    must also get at least `min_motion` (a share of the frame: 0.03 is 8 pixels of 256) away from
    its start, by the vector sum of its counted steps: a tracker's noise makes a path longer with
    every frame and would fill the k places in a still clip, but stays near the start. 0 is the
    paper's rule. k and the camera option are open in the paper (here 64, off).

    With `compensate_camera` the camera's motion is subtracted from each step, and a track must get
    that far both with and without this: what stays put in a panning picture is dirt on the lens, a
    part of the robot that turns with the camera, or a tracker that sticks to the frame's edge after
    its point has left.
    """
    missing = max(0, k - tracks.shape[2])
    tracks, visible = pad(tracks, (0, 0, 0, missing)), pad(visible & in_frame(tracks), (0, missing))
    before, after = tracks[:, :-1], tracks[:, 1:]
    seen = visible[:, :-1] & visible[:, 1:]
    steps = torch.where(seen[..., None], after - before, 0.0)
    reach, camera_motion = farthest(steps), tracks.new_zeros(tracks.shape[0])
    # What the camera explains of each step is taken off
    if compensate_camera:
        carried = apply_homography(camera_homographies(before, after, seen), before)
        moved = torch.where(seen, (carried - before).norm(dim=-1), 0.0).sum(-1)
        camera_motion = (moved / seen.sum(-1).clamp(min=1)).sum(1)
        steps = torch.where(seen[..., None], after - carried, 0.0)
        reach = torch.minimum(reach, farthest(steps))
    # Rank the tracks by path length; -1 for those that do not count
    motion = steps.norm(dim=-1).sum(1)  # (b, p)
    motion, index = torch.where((reach >= min_motion) & visible.any(1), motion, -1.0).topk(k, dim=1)
    found = motion >= 0
    columns = index[:, None].expand(-1, tracks.shape[1], -1)
    return ActiveTracks(
        torch.where(
            found[:, None, :, None], tracks.gather(2, columns[..., None].expand(-1, -1, -1, 2)), 0.0
        ),
        visible.gather(2, columns) & found[:, None],
        torch.where(found, index, -1),
        torch.where(found, motion, 0.0),
        camera_motion,
    )


def farthest(steps: Float[Tensor, "b t p 2"]) -> Float[Tensor, "b p"]:
    """The largest distance of each point from its start, by the vector sum of its steps."""
    return steps.cumsum(1).norm(dim=-1).amax(1)


def in_frame(tracks: Float[Tensor, "*any 2"]) -> Bool[Tensor, "*any"]:
    return ((tracks >= 0) & (tracks < 1)).all(-1)


def cells_of(tracks: Float[Tensor, "*any 2"], grid: tuple[int, int]) -> Int[Tensor, "*any"]:
    """Row-major index in a (rows, columns) grid of the cell under each point, or nearest to it."""
    gh, gw = grid
    x, y = (tracks.clamp(0, 1) * tracks.new_tensor([gw, gh])).long().unbind(-1)
    return y.clamp(max=gh - 1) * gw + x.clamp(max=gw - 1)


def apply_homography(
    h: Float[Tensor, "*any 3 3"], points: Float[Tensor, "*any p 2"]
) -> Float[Tensor, "*any p 2"]:
    """Points mapped by homographies, which act on coordinates from the frame's centre."""
    mapped = (points - 0.5) @ h[..., :2].mT + h[..., None, :, 2]
    return mapped[..., :2] / mapped[..., 2:] + 0.5


def camera_homographies(
    before: Float[Tensor, "*any p 2"],
    after: Float[Tensor, "*any p 2"],
    seen: Bool[Tensor, "*any p"],
    *,
    noise: float = 0.004,
    n_rounds: int = 20,
) -> Float[Tensor, "*any 3 3"]:
    """The homography that maps most points from `before` to `after`: what a turning camera does.

    Least squares with Geman-McClure weights, whose scale shrinks from an eighth of the frame to
    `noise` (a share of the frame, 1 pixel of 256): graduated non-convexity (Blake and Zisserman
    1987), which draws no random numbers. Early rounds also damp all but the shift, or a large
    moving object would bend the perspective to fit it. On random scenes this finds the camera with
    up to 40 % of the points moving by themselves, 25 % if these are on one side of the frame. A
    travelling camera moves near points more than far ones; that part is no homography and stays in
    the residual.
    """
    rows, targets = _linear_system(before.double() - 0.5, after.double() - 0.5)
    usable = seen & (seen.sum(-1, keepdim=True) >= MIN_POINTS)
    weights = usable.double()
    place = {"dtype": torch.float64, "device": before.device}
    not_shift = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1], **place).diag()
    regular = 1e-9 * torch.eye(8, **place)  # without points the change is 0
    h = torch.eye(3, **place).expand(*before.shape[:-2], 3, 3)
    for i in range(n_rounds):
        weighted = rows * weights[..., None, None]
        damping = 10 ** (-i / 2) * weights.sum(-1)[..., None, None]
        products = torch.einsum("...pri,...prj->...ij", weighted, rows)
        change = torch.linalg.solve(
            products + damping * not_shift + regular,
            torch.einsum("...pri,...pr->...i", weighted, targets),
        )
        h = pad(change, (0, 1)).unflatten(-1, (3, 3)) + torch.eye(3, device=before.device)
        error2 = (apply_homography(h, before.double()) - after.double()).square().sum(-1)
        # The scale of the weights; in the last four rounds it is `noise`
        scale2 = (noise * 2.0 ** max(0.0, 5 * (1 - i / (n_rounds - 4)))) ** 2
        weights = usable * (scale2 / (scale2 + error2)).square()
    return h.to(before.dtype)


def _linear_system(
    before: Float[Tensor, "*any p 2"], after: Float[Tensor, "*any p 2"]
) -> tuple[Float[Tensor, "*any p 2 8"], Float[Tensor, "*any p 2"]]:
    """Rows and targets of a homography's change (a ... h) from the identity.

    u (1 + g x + h y) = x + (a x + b y + c), and likewise for v, is linear in the change.
    """
    (x, y), (u, v) = before.unbind(-1), after.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    of_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    of_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    return torch.stack([of_u, of_v], dim=-2), torch.stack([u - x, v - y], -1)
