"""The scripted hands reach their targets, and objects move as the labels say."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.agibot_writer import task_info_entry
from simulation.arm import FLANGE_TO_TIP_M, SIDES, ArmIk, hand_rotation, home_joints
from simulation.config import SampleConfig
from simulation.episode import UnstableError, simulate
from simulation.ground_truth import geom_bodies, geom_poses
from simulation.policies import RANDOM_TASK, TASKS
from simulation.recording import Episode, simulate_episode
from simulation.scene import TABLE_TOP_M, WORKSPACE_M, draw_scene
from simulation.skills import LOWEST_TIP_M, Segment

CONFIG = SampleConfig(rate_hz=8.0, duration_s=11.0, width=96, height=72, seed=3)
N_SCRIPTED = 3


@pytest.fixture(scope="module")
def scripted() -> list[Episode]:
    """One of each task."""
    episodes = [simulate_episode(replace(CONFIG, share_random=0.0), i) for i in range(N_SCRIPTED)]
    assert {e.task.id for e in episodes} == {task.id for task in TASKS}
    return episodes


def paths(episode: Episode) -> dict[str, np.ndarray]:
    """The centre of each object in every frame."""
    position, _ = geom_poses(episode.scene, episode.trajectory.qpos)
    bodies = geom_bodies(episode.scene)
    return {obj.name: position[:, bodies.index(obj.name)] for obj in episode.scene.objects}


def attempts(
    episodes: list[Episode], skill: str, success: bool
) -> list[tuple[Episode, Segment, np.ndarray]]:
    """Every segment of that skill and outcome, with its object's path from its start."""
    return [
        (e, s, paths(e)[str(s.object_name)][int(s.start_s * CONFIG.rate_hz) :])
        for e in episodes
        for s in e.trajectory.segments
        if s.skill == skill and s.success is success
    ]


def test_most_scripted_episodes_move_objects(scripted: list[Episode]):
    moved = [
        max(np.linalg.norm(path - path[0], axis=1).max() for path in paths(e).values())
        for e in scripted
    ]
    assert np.sum(np.array(moved) > 0.05) >= N_SCRIPTED - 1, moved
    worked = [any(s.success for s in e.trajectory.segments) for e in scripted]
    assert sum(worked) >= N_SCRIPTED - 1


def test_labels_say_what_happened_to_the_objects(scripted: list[Episode]):
    lifted = attempts(scripted, "Pick", True)
    assert len(lifted) >= 2
    for _, segment, path in lifted:
        assert path[:, 2].max() > path[0, 2] + 0.05, segment
    placed = attempts(scripted, "Place", True)
    assert len(placed) >= 2
    for _, segment, path in placed:
        assert path[:, 2].min() < TABLE_TOP_M + 0.10, segment
    pushed = attempts(scripted, "Push", True)
    assert len(pushed) >= 2
    for _, segment, path in pushed:
        assert np.linalg.norm(path[:, :2] - path[0, :2], axis=1).max() > 0.04, segment


def test_segments_that_start_together_are_one_span(scripted: list[Episode]):
    """Two hands may start in one frame: no segment is empty, and the last one counts."""
    both = tuple(Segment(side, "Push", f"Push with the {side} hand.", 1.0) for side in SIDES)
    first = Segment("left", "Pick", "Pick.", 0.1)
    trajectory = replace(scripted[0].trajectory, segments=(first, *both))
    config = task_info_entry(7, TASKS[0], trajectory, "")["label_info"]["action_config"]
    assert [(c["start_frame"], c["end_frame"], c["action_text"]) for c in config] == [
        (0, 8, "Pick."),
        (8, CONFIG.n_frames, "Push with the right hand."),
    ]


def test_hands_follow_their_commands_and_avoid_the_table(scripted: list[Episode]):
    for episode in scripted:
        t = episode.trajectory
        lag = np.linalg.norm(t.flange_position - t.flange_position_command, axis=-1)
        assert np.median(lag) < 0.02 and lag.max() < 0.08, (np.median(lag), lag.max())
        tip = t.flange_position + FLANGE_TO_TIP_M * t.flange_axes[..., 2]
        assert tip[..., 2].min() > LOWEST_TIP_M - 0.02
        assert ((t.closed > -0.02) & (t.closed < 1.1)).all() and np.ptp(
            t.closed_command
        ) > 0.8  # soft limits


def test_objects_rest_until_a_hand_comes(scripted: list[Episode]):
    for episode in scripted:
        for name, path in paths(episode).items():
            assert np.linalg.norm(path[1] - path[0]) < 0.002, (
                episode.id,
                name,
            )  # 1/8 s, hands just start


def test_random_episodes_move_both_hands_and_differ():
    episodes = [simulate_episode(replace(CONFIG, share_random=1.0), i) for i in range(2)]
    for episode in episodes:
        assert episode.task is RANDOM_TASK and [s.skill for s in episode.trajectory.segments] == [
            "Explore"
        ]
        travelled = np.linalg.norm(
            np.diff(episode.trajectory.flange_position, axis=0), axis=-1
        ).sum(axis=0)
        assert (travelled > 0.5).all()
    one, other = (e.trajectory.flange_position for e in episodes)
    assert np.abs(one - other).max() > 0.1


@settings(max_examples=25, deadline=None)
@given(
    side=st.sampled_from(SIDES),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.03, 0.2)),
    turn=st.floats(-0.4, 0.4),
    tilt=st.floats(0.35, 0.7),
)
def test_every_place_of_the_workspace_can_be_reached(
    side: str, at: tuple, turn: float, tilt: float
):
    ik = ArmIk(SCENE.model, side)
    sign = 1 if side == "left" else -1
    (x0, x1), (_, y1) = WORKSPACE_M
    goal = np.array(
        [x0 + at[0] * (x1 - x0), sign * (0.03 + at[1] * (y1 - 0.03)), TABLE_TOP_M + at[2]]
    )
    axes = hand_rotation(side, sign * (np.radians(115) + turn), tilt)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    q = home_joints(side)
    for _ in range(40):
        q = ik.solve(q, goal, axes)
    tip, reached = ik.tip_pose(q)
    assert np.linalg.norm(tip - goal) < 0.02
    assert np.arccos(np.clip((np.trace(reached.T @ axes) - 1) / 2, -1, 1)) < 0.12  # rad


SCENE = draw_scene(np.random.default_rng(0), width=96, height=72)


@pytest.mark.parametrize("rate_hz", [5.0, 30.0, 50.0])
def test_any_rate_gives_its_number_of_rows(rate_hz: float):
    rng = np.random.default_rng(0)
    t = simulate(
        draw_scene(rng, width=96, height=72),
        TASKS[0],
        rng,
        rate_hz=rate_hz,
        n_frames=round(0.4 * rate_hz),
    )
    assert len(t.qpos) == len(t.joints) == round(0.4 * rate_hz) and np.isfinite(t.qpos).all()


def test_diverged_physics_is_an_error_and_writes_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scene = draw_scene(rng, width=96, height=72)
    scene.model.qpos0[-1] = np.nan
    before = mujoco.get_mju_user_warning()
    with pytest.raises(UnstableError, match=r"task 902: .* warnings by MuJoCo, the first: .*QPOS"):
        simulate(scene, TASKS[1], rng, rate_hz=4.0, n_frames=2)
    assert not list(tmp_path.iterdir()) and mujoco.get_mju_user_warning() is before
