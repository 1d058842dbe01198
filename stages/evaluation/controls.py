"""Other actions than a clip's own: the three published forms of ΔPSNR and one of ours, each with a
metric of its own.

ΔPSNR is the PSNR of the rollout under the true actions minus the PSNR under others, from the same
first frame and with the same noise. What the others are differs from paper to paper, and so do the
values: they are never put into one column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from model.training.device import step_generator
from model.world.batch import ActionStats
from stages.clips.arm_vectors import ARM_WIDTH

# Metric of each form: another clip's actions (RoboScape, arXiv:2506.23135); drawn from a Gaussian
# with the data's mean and deviation, the mean of a few draws (HMA, arXiv:2502.04296: five); the
# pose at the clip's start, held; every movement of the hands turned round (ours)
OTHER_CLIP, GAUSSIAN, HELD = "delta_psnr", "delta_psnr_gaussian", "delta_psnr_held"
MIRRORED = "delta_psnr_mirrored"
# As the report names them, after "under"
FORM_NAMES = {
    OTHER_CLIP: "another clip's actions",
    GAUSSIAN: "Gaussian actions",
    HELD: "actions held still",
    MIRRORED: "mirrored movements",
}
FORMS = tuple(FORM_NAMES)
ACTION_ROLE = 5  # keeps the noise of actions apart from that of training and generation

Drawn = TypeVar("Drawn")
# Form -> one item for each draw; a form that is not measured is left out
Controls = Mapping[str, Sequence[Drawn]]


@dataclass(frozen=True, kw_only=True)
class ControlForms:
    """The forms to measure beside another clip's actions; each draw costs a rollout."""

    gaussian_draws: int = 0
    held: bool = False
    mirrored: bool = False


def other_controls(
    actions: Float[Tensor, "b t i a"],
    of_others: Float[Tensor, "b t i a"] | None,
    stats: ActionStats,
    forms: ControlForms,
    seed: int,
    number: int,
) -> dict[str, list[Tensor]]:
    """The actions of all forms, normalised by `stats` as `actions` are; `number` is the batch's."""
    controls: dict[str, list[Tensor]] = {}
    if of_others is not None:
        controls[OTHER_CLIP] = [of_others]
    if forms.gaussian_draws:
        noise = step_generator(seed, number, ACTION_ROLE)
        draws = range(forms.gaussian_draws)
        controls[GAUSSIAN] = [gaussian_actions(actions, stats, noise) for _ in draws]
    if forms.held:
        controls[HELD] = [held_actions(actions)]
    if forms.mirrored:
        controls[MIRRORED] = [mirrored_actions(actions, stats)]
    return controls


def gaussian_actions(
    actions: Float[Tensor, "b t i a"], stats: ActionStats, generator: torch.Generator
) -> Float[Tensor, "b t i a"]:
    """Each number drawn by itself, from a normal distribution with the training set's mean and
    deviation of that dimension: normalised, as the actions are, it is the standard one.

    What never changes in the training set stays as it is.
    """
    drawn = torch.randn(actions.shape, generator=generator, dtype=torch.float32).to(actions)
    return torch.where(stats.varies.to(actions.device), drawn, actions)


def held_actions(actions: Float[Tensor, "b t i a"]) -> Float[Tensor, "b t i a"]:
    """The last action that leads into frame 0, in every frame: poses are absolute, so the robot is
    told to stay where it is.
    """
    return actions[:, :1, -1:].expand_as(actions)


def mirrored_actions(
    actions: Float[Tensor, "b t i a"], stats: ActionStats
) -> Float[Tensor, "b t i a"]:
    """Each hand's movement from its pose at the clip's start, turned round: a hand that went left
    goes right, and one that turned turns the other way. Grippers open and close as they did.

    Raises ValueError for actions that are no poses of arms (`stages.clips.arm_vectors`).
    """
    if actions.shape[-1] % ARM_WIDTH:
        raise ValueError(
            f"mirrored_actions: actions of {actions.shape[-1]} numbers are not arms of {ARM_WIDTH} "
            "(position, quaternion, gripper): mirror poses only"
        )
    poses = stats.restore(actions).unflatten(-1, (-1, ARM_WIDTH))
    start, mirrored = poses[:, :1, -1:].expand_as(poses), poses.clone()
    mirrored[..., :3] = 2 * start[..., :3] - poses[..., :3]
    mirrored[..., 3:7] = rotated_back(start[..., 3:7], poses[..., 3:7])
    return stats.normalise(mirrored.flatten(-2))


def rotated_back(
    start: Float[Tensor, "*any 4"], end: Float[Tensor, "*any 4"]
) -> Float[Tensor, "*any 4"]:
    """Where the opposite of the rotation from `start` to `end` leads: start end⁻¹ start.

    Quaternions (x, y, z, w); `end` has length 1, `start` about that.
    """
    unit = torch.nn.functional.normalize(start, dim=-1)
    inverse = end * torch.tensor([-1.0, -1.0, -1.0, 1.0]).to(end)
    found = product(product(unit, inverse), unit)
    # As at the start, so that equal rotations have equal numbers; q and -q are one rotation
    return torch.where((found * unit).sum(-1, keepdim=True) < 0, -found, found)


def product(a: Float[Tensor, "*any 4"], b: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Of quaternions (x, y, z, w): the rotation b, then a."""
    (u, s), (v, t) = (a[..., :3], a[..., 3:]), (b[..., :3], b[..., 3:])
    vector = s * v + t * u + torch.linalg.cross(u, v)
    return torch.cat([vector, s * t - (u * v).sum(-1, keepdim=True)], dim=-1)
