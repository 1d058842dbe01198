"""Other actions than a clip's own, in the three published forms of ΔPSNR; each has its own metric.

ΔPSNR is the PSNR of the rollout under the true actions minus the PSNR under others, from the same
first frame and with the same noise. What the others are differs from paper to paper, and so do the
values: they are never put into one column.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from model.training.device import step_generator

# Metric of each form: another clip's actions (RoboScape, arXiv:2506.23135); drawn from a Gaussian
# with the data's mean and deviation, the mean of a few draws (HMA, arXiv:2502.04296: five); the
# pose at the clip's start, held
OTHER_CLIP, GAUSSIAN, HELD = "delta_psnr", "delta_psnr_gaussian", "delta_psnr_held"
FORMS = (OTHER_CLIP, GAUSSIAN, HELD)
# As the report names them, after "under"
FORM_NAMES = {
    OTHER_CLIP: "another clip's actions",
    GAUSSIAN: "Gaussian actions",
    HELD: "actions held still",
}
ACTION_ROLE = 5  # keeps the noise of actions apart from that of training and generation

Drawn = TypeVar("Drawn")
# Form -> one item for each draw; a form that is not measured is left out
Controls = Mapping[str, Sequence[Drawn]]


def other_controls(
    actions: Float[Tensor, "b t i a"],
    of_others: Float[Tensor, "b t i a"] | None,
    gaussian_draws: int,
    held: bool,
    seed: int,
    number: int,
) -> dict[str, list[Tensor]]:
    """The actions of all forms, normalised as `actions` are; `number` is the batch's."""
    controls: dict[str, list[Tensor]] = {}
    if of_others is not None:
        controls[OTHER_CLIP] = [of_others]
    if gaussian_draws:
        noise = step_generator(seed, number, ACTION_ROLE)
        controls[GAUSSIAN] = [gaussian_actions(actions, noise) for _ in range(gaussian_draws)]
    if held:
        controls[HELD] = [held_actions(actions)]
    return controls


def gaussian_actions(
    actions: Float[Tensor, "b t i a"], generator: torch.Generator
) -> Float[Tensor, "b t i a"]:
    """Each number drawn by itself, from a normal distribution with the training set's mean and
    deviation of that dimension: normalised, as the actions are, it is the standard one.
    """
    drawn = torch.randn(actions.shape, generator=generator, dtype=torch.float32)
    return drawn.to(actions)


def held_actions(actions: Float[Tensor, "b t i a"]) -> Float[Tensor, "b t i a"]:
    """The last action that leads into frame 0, in every frame: poses are absolute, so the robot is
    told to stay where it is.
    """
    return actions[:, :1, -1:].expand_as(actions)
