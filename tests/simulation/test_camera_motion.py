"""A swaying camera: smooth, within its limits, and nothing else of the episode changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_clips import box_truth
from sample_configs import SWAYING

from simulation.camera_motion import PERIODS_S, TRAVEL_M, TURN_DEG, moving_cameras
from simulation.dataset import SampleSummary
from simulation.faults import simulate_faulty
from simulation.ground_truth import read_ground_truth, write_ground_truth
from simulation.recording import ground_truth_folder, render_frames, simulate_episode
from simulation.scene import Camera
from storage.sources.agibot.calibration import read_extrinsics, read_intrinsics
from storage.sources.agibot.tree import list_episodes

TIMES_S = np.arange(400) / 10
CAMERA = Camera(
    width=64, height=48, fx=40.0, fy=50.0, cx=31.5, cy=23.5,
    position_m=np.array([0.4, 0, 0.9]), rotation=np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]),
)  # fmt: skip


def poses(motion: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Travel in m, and the angle in degrees from the camera's rest."""
    cameras = moving_cameras(CAMERA, TIMES_S, motion, np.random.default_rng(seed))
    travel = np.stack([c.position_m - CAMERA.position_m for c in cameras])
    turns = np.stack([c.rotation @ CAMERA.rotation.T for c in cameras])
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.tile(np.eye(3), (400, 1, 1)), atol=1e-12
    )
    return travel, np.degrees(np.arccos(np.clip((turns.trace(axis1=1, axis2=2) - 1) / 2, -1, 1)))


def test_without_motion_it_is_the_same_camera():
    cameras = moving_cameras(CAMERA, TIMES_S, 0.0, np.random.default_rng(0))
    assert len(cameras) == 400 and all(camera is CAMERA for camera in cameras)


@pytest.mark.parametrize("seed", range(5))
def test_it_sways_slowly_and_not_too_far(seed: int):
    travel, degrees = poses(1.0, seed)
    assert (abs(travel) <= TRAVEL_M).all() and degrees.max() <= sum(TURN_DEG)
    assert (np.ptp(travel, axis=0) > 0.3 * np.array(TRAVEL_M)).all() and degrees.max() > 1
    fastest = 2 * np.pi / PERIODS_S[0] * np.array(TRAVEL_M)  # m/s, of a sine
    assert (abs(np.diff(travel, axis=0)) * 10 <= fastest).all()
    assert (abs(np.diff(degrees)) * 10 <= 2 * np.pi / PERIODS_S[0] * sum(TURN_DEG)).all()
    np.testing.assert_allclose(poses(2.0, seed)[0], 2 * travel)


def test_seeds_differ_also_in_where_they_start():
    starts = [poses(1.0, seed)[0][0] for seed in range(5)]
    assert len(np.unique(starts, axis=0)) == 5 and np.ptp(starts) > 0.01


def test_only_the_camera_depends_on_it():
    sways, rests = (simulate_episode(replace(SWAYING, camera_motion=m), 0) for m in (1.0, 0.0))
    np.testing.assert_array_equal(sways.trajectory.qpos, rests.trajectory.qpos)
    assert sways.rng.bit_generator.state == rests.rng.bit_generator.state
    assert all(camera is rests.scene.camera for camera in rests.cameras)
    still = (sways.scene.camera,) * SWAYING.n_frames
    first = next(render_frames(replace(sways, cameras=still)))
    np.testing.assert_array_equal(first.rgb, next(render_frames(rests)).rgb)


def test_the_calibration_and_the_truth_have_each_frames_pose(swaying_sample: SampleSummary):
    simulated = simulate_episode(SWAYING, 0)
    (listed,) = list_episodes(swaying_sample.root).episodes
    intrinsics, extrinsics = listed.calibration("head_color")
    assert intrinsics is not None and extrinsics is not None
    folder = swaying_sample.root / ground_truth_folder(simulated.task.id, simulated.id)
    truth, poses = read_ground_truth(folder), read_extrinsics(extrinsics)
    assert len(simulated.cameras) == len(truth.cameras) == len(poses) == SWAYING.n_frames
    for camera, true, pose in zip(simulated.cameras, truth.cameras, poses, strict=True):
        np.testing.assert_array_equal(true.position_m, camera.position_m)
        np.testing.assert_array_equal(true.rotation, camera.rotation)
        np.testing.assert_array_equal(pose[:, :3], camera.rotation)
        np.testing.assert_array_equal(pose[:, 3], camera.position_m)
        assert read_intrinsics(intrinsics).fx == true.fx == camera.fx
    assert len(np.unique(poses[:, :, 3], axis=0)) == SWAYING.n_frames


def test_depth_of_still_things_agrees_from_frame_to_frame(swaying_sample: SampleSummary):
    """Pixels of frame s, lifted by its pose and seen by that of t, have the depth that t has."""
    simulated = simulate_episode(SWAYING, 0)
    truth = read_ground_truth(
        swaying_sample.root / ground_truth_folder(simulated.task.id, simulated.id)
    )
    for s, t in ((0, 5), (11, 2)):
        one, other = truth.cameras[s], truth.cameras[t]
        compared, wrong = 0, 0
        for y in range(0, one.height, 3):
            for x in range(0, one.width, 3):
                ray = np.array([(x - one.cx) / one.fx, (y - one.cy) / one.fy, 1.0])
                place = one.position_m + one.rotation @ ray * float(truth.depth_m[s, y, x])
                u, v, z = other.rotation.T @ (place - other.position_m)
                px, py = other.cx + other.fx * u / z, other.cy + other.fy * v / z
                i, j = int(np.floor(px)), int(np.floor(py))
                if not (0 <= i < one.width - 1 and 0 <= j < one.height - 1):
                    continue
                around = truth.geom[t, j : j + 2, i : i + 2]
                geom = truth.geom[s, y, x]
                if truth.geom_body[geom] != "world" or not (around == geom).all():
                    continue
                # Inverse depth is linear on a plane
                corners = 1 / truth.depth_m[t, j : j + 2, i : i + 2].astype(float)
                a, b = px - i, py - j
                rows = corners @ [1 - a, a]
                compared += 1
                wrong += abs(1 / (rows @ [1 - b, b]) - z) > 0.004
        assert compared > 300 and wrong <= 0.02 * compared, (compared, wrong)


def test_a_truth_with_one_pose_is_read_for_every_frame(tmp_path: Path):
    truth = box_truth()
    write_ground_truth(tmp_path, truth)
    with np.load(tmp_path / "truth.npz") as written:
        assert written["camera_position_m"].shape == (3,)
        assert written["camera_rotation"].shape == (3, 3)
    cameras = read_ground_truth(tmp_path).cameras
    assert len(cameras) == len(truth.depth_m)
    for camera in cameras:
        np.testing.assert_array_equal(camera.rotation, truth.cameras[0].rotation)
        assert (camera.width, camera.cx) == (truth.cameras[0].width, truth.cameras[0].cx)


def test_a_static_episode_has_a_still_camera_too():
    cameras = simulate_faulty(SWAYING, 0, "static").cameras
    assert len(cameras) == SWAYING.n_frames and all(camera is cameras[0] for camera in cameras)
