"""Point tracks: which ones move by themselves, and the token cells they pass through.

RoboScape (arXiv:2506.23135) section 3.3 keeps the K tracks that move most. A moving camera makes
the whole background "active", so as an option the dominant camera motion is taken out before
ranking. Tracks are (x, y) as shares of the frame's width and height; a point outside [0, 1) is not
visible.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

# Fewer common points than this and a step's camera is taken as still: 4 points fit any homography
MIN_POINTS = 8


@dataclass(frozen=True)
class ActiveTracks:
    """The selected tracks, most moving first; places without a track are zeros and never visible."""

    tracks: Float[Tensor, "b t k 2"]
    visible: Bool[Tensor, "b t k"]
    index: Int[Tensor, "b k"]  # which of the given points each is; -1 where there is none
    motion: Float[Tensor, "b k"]  # path length, as a share of the frame
    camera_motion: Float[
        Tensor, " b"
    ]  # mean path length that the camera's homographies explain; 0 if not compensated


def select_active_tracks(
    tracks: Float[Tensor, "b t p 2"],
    visible: Bool[Tensor, "b t p"],
    k: int = 64,
    *,
    compensate_camera: bool = False,
    min_motion: float = 0.03,
) -> ActiveTracks:
    """The k tracks with the longest path M_i = Σ_t |p_i(t+1) - p_i(t)|, among those that get
    somewhere.

    The paper sums all steps; here a step counts only if the point is visible at both ends. A track
    must also get as far as `min_motion` (a share of the frame: 0.03 is 8 pixels of 256) from where
    it began, by its counted steps added up as vectors: a tracker's noise adds to the path with
    every frame and would fill the k places in a still clip, but leads nowhere. 0 is the paper's
    rule. k and the camera option are open in the paper (ours: 64, off).

    With `compensate_camera` a step is what is left of it after the camera's own motion, and a track
    must get that far both so and in the picture itself: what stays put in a panning picture is dirt
    on the lens, a part of the robot that turns with the camera, or a tracker that clings to the
    frame's edge where its point has left.
    """
    missing = max(0, k - tracks.shape[2])
    tracks, visible = pad(tracks, (0, 0, 0, missing)), pad(visible & in_frame(tracks), (0, missing))
    before, after = tracks[:, :-1], tracks[:, 1:]
    seen = visible[:, :-1] & visible[:, 1:]
    steps = torch.where(seen[..., None], after - before, 0.0)
    reach, camera_motion = farthest(steps), tracks.new_zeros(tracks.shape[0])
    if compensate_camera:
        carried = apply_homography(camera_homographies(before, after, seen), before)
        moved = torch.where(seen, (carried - before).norm(dim=-1), 0.0).sum(-1)
        camera_motion = (moved / seen.sum(-1).clamp(min=1)).sum(1)
        steps = torch.where(seen[..., None], after - carried, 0.0)
        reach = torch.minimum(reach, farthest(steps))
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
    """How far each point ever is from where it began, by its steps added up as vectors."""
    return steps.cumsum(1).norm(dim=-1).amax(1)


def in_frame(tracks: Float[Tensor, "*any 2"]) -> Bool[Tensor, "*any"]:
    return ((tracks >= 0) & (tracks < 1)).all(-1)


def cells_of(tracks: Float[Tensor, "*any 2"], grid: tuple[int, int]) -> Int[Tensor, "*any"]:
    """Index in a row-major token grid (rows, columns) of the cell under each point; points outside
    go to the edge.
    """
    gh, gw = grid
    x, y = (tracks.clamp(0, 1) * tracks.new_tensor([gw, gh])).long().unbind(-1)
    return y.clamp(max=gh - 1) * gw + x.clamp(max=gw - 1)


def apply_homography(
    h: Float[Tensor, "*any 3 3"], points: Float[Tensor, "*any p 2"]
) -> Float[Tensor, "*any p 2"]:
    """Carry points by homographies that act on coordinates measured from the frame's centre."""
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
    """The homography that carries most points from `before` to `after`: what turning a camera does
    to a still scene.

    Weighted least squares with weights of the Geman-McClure kind, first lenient (an eighth of the
    frame) and then ever stricter, down to `noise` (a share of the frame, 1 pixel of 256): graduated
    non-convexity (Blake and Zisserman 1987), which needs no random draws. Early rounds also hold
    back all but the shift, or a large moving thing would bend the perspective to fit it. On random
    scenes this finds the camera with up to 40 % of the points moving on their own, 25 % if they are
    one side of the frame. A camera that travels moves near things more than far ones; that part is
    not a homography and stays in the residual.
    """
    x, y = (before.double() - 0.5).unbind(-1)
    u, v = (after.double() - 0.5).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    # u (1 + g x + h y) = x + (a x + b y + c), likewise v: linear in the change (a ... h) from the
    # identity
    rows = torch.stack(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
        ],
        dim=-2,
    )  # (*any, p, 2, 8)
    targets = torch.stack([u - x, v - y], -1)
    usable = seen & (seen.sum(-1, keepdim=True) >= MIN_POINTS)
    weights = usable.double()
    not_shift = torch.tensor(
        [1.0, 1, 0, 1, 1, 0, 1, 1], dtype=torch.float64, device=before.device
    ).diag()
    no_points_no_change = 1e-9 * torch.eye(8, dtype=torch.float64, device=before.device)
    for i in range(n_rounds):
        weighted = rows * weights[..., None, None]
        stiffness = 10 ** (-i / 2) * weights.sum(-1)[..., None, None]
        normal = (
            torch.einsum("...pri,...prj->...ij", weighted, rows)
            + stiffness * not_shift
            + no_points_no_change
        )
        change = torch.linalg.solve(normal, torch.einsum("...pri,...pr->...i", weighted, targets))
        h = torch.cat([change, zero[..., :1] * 0], -1).unflatten(-1, (3, 3)) + torch.eye(
            3, device=before.device
        )
        error2 = (apply_homography(h, before.double()) - after.double()).square().sum(-1)
        scale2 = (
            noise * 2.0 ** max(0.0, 5 * (1 - i / (n_rounds - 4)))
        ) ** 2  # the last four rounds at `noise` itself
        weights = usable * (scale2 / (scale2 + error2)).square()
    return h.to(before.dtype)
