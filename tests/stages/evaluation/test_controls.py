import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from model.world.batch import ActionStats
from stages.evaluation.controls import (
    GAUSSIAN,
    MIRRORED,
    ControlForms,
    mirrored_actions,
    other_controls,
)

STANDARD = ActionStats(mean=torch.zeros(16), std=torch.full((16,), 0.5))


def gaussian(actions, n, number=0, stats=STANDARD):
    return other_controls(actions, None, stats, ControlForms(gaussian_draws=n), 0, number)[GAUSSIAN]


def test_gaussian_actions_have_the_datas_mean_and_deviation():
    """Normalised actions have mean 0 and deviation 1; every draw and every number is another."""
    actions = torch.full((4, 16, 15, 16), 3.0)
    (first, second), again = gaussian(actions, 2), gaussian(actions, 2)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    for draw in (first, second):
        assert draw.mean((0, 1, 2)).abs().max() < 0.15
        assert (draw.std((0, 1, 2)) - 1).abs().max() < 0.1
        assert len(draw.unique()) > 0.99 * draw.numel()
    mixed = torch.stack([first.flatten(), second.flatten()])
    assert torch.corrcoef(mixed)[0, 1].abs() < 0.03
    assert not torch.equal(first, gaussian(actions, 1, number=1)[0])


def test_gaussian_actions_leave_what_never_changed_in_training():
    data = torch.randn(500, 16, dtype=torch.float64)
    data[:, [3, 9]] = 2.0
    stats = ActionStats.measure(data)
    assert (~stats.varies).nonzero().flatten().tolist() == [3, 9]
    actions = stats.normalise(data[:8].float().reshape(1, 8, 1, 16))
    (drawn,) = gaussian(actions, 1, stats=stats)
    same = (drawn == actions).all((0, 1, 2))
    assert same.nonzero().flatten().tolist() == [3, 9] and not actions[..., [3, 9]].any()


def poses(n=6, seed=0):
    """Random poses of two arms, float64: (1, n, 2, 16)."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(n * 4, rng=rng).as_quat().reshape(1, n, 2, 2, 4)
    places, closed = rng.normal(size=(1, n, 2, 2, 3)), rng.random((1, n, 2, 2, 1))
    return torch.from_numpy(np.concatenate([places, turns, closed], -1).reshape(1, n, 2, 16))


def test_mirrored_movements_go_as_far_the_other_way():
    stats = ActionStats(mean=torch.linspace(-1, 1, 16), std=torch.linspace(0.2, 2, 16))
    actions = stats.normalise(poses())
    found = other_controls(actions, None, stats, ControlForms(mirrored=True), 0, 0)[MIRRORED][0]
    mirrored = stats.restore(found).unflatten(-1, (2, 8)).numpy()
    true = stats.restore(actions).unflatten(-1, (2, 8)).numpy()
    start = true[:, :1, -1:]
    np.testing.assert_allclose(mirrored[..., :3] - start[..., :3], start[..., :3] - true[..., :3])
    np.testing.assert_allclose(mirrored[..., 7], true[..., 7])

    def turned(end: np.ndarray) -> Rotation:
        first = np.broadcast_to(start[..., 3:7], end[..., 3:7].shape).reshape(-1, 4)
        return Rotation.from_quat(end[..., 3:7].reshape(-1, 4)) * Rotation.from_quat(first).inv()

    both = turned(mirrored) * turned(true)  # there and back
    np.testing.assert_allclose(both.magnitude(), 0, atol=1e-6)
    assert turned(true).magnitude().max() > 1
    np.testing.assert_allclose(np.linalg.norm(mirrored[..., 3:7], axis=-1), 1, rtol=1e-6)


def test_mirroring_twice_and_mirroring_nothing_change_nothing():
    actions = STANDARD.normalise(poses(seed=1))
    twice = mirrored_actions(mirrored_actions(actions, STANDARD), STANDARD)
    one, other = (STANDARD.restore(x).unflatten(-1, (2, 8)) for x in (actions, twice))
    torch.testing.assert_close(one[..., :3], other[..., :3])
    # A quaternion and its negative are the same rotation
    torch.testing.assert_close(
        (one[..., 3:7] * other[..., 3:7]).sum(-1).abs(), torch.ones(1, 6, 2, 2, dtype=torch.float64)
    )
    held = actions[:, :1, -1:].expand_as(actions)
    torch.testing.assert_close(mirrored_actions(held, STANDARD), held)


def test_only_poses_are_mirrored():
    stats = ActionStats(mean=torch.zeros(7), std=torch.ones(7))
    with pytest.raises(ValueError, match="actions of 7 numbers are not arms of 8"):
        mirrored_actions(torch.zeros(1, 4, 1, 7), stats)
