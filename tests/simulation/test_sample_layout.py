"""A simulated episode through AGIBOT's reader: rows, pictures, depth, camera as simulated."""

import h5py
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_configs import QUICK, SWAYING

from simulation.agibot_writer import (
    DEPTH_LIMIT_M,
    EMPTY,
    quaternions_xyzw,
    sense_depth,
    write_video,
)
from simulation.arm import SIDES
from simulation.dataset import SampleSummary
from simulation.ground_truth import GroundTruth, read_ground_truth
from simulation.recording import (
    FIRST_EPISODE_ID,
    Episode,
    ground_truth_folder,
    render_frames,
    simulate_episode,
)
from simulation.scene import TABLE_TOP_M
from storage.sources.agibot.calibration import read_depth_png, read_extrinsics, read_intrinsics
from storage.sources.agibot.proprio import read_proprio
from storage.sources.agibot.tree import Episode as AgibotEpisode
from storage.sources.agibot.tree import depth_frames, list_episodes
from storage.sources.video import Video

N = QUICK.n_frames


@pytest.fixture(
    scope="module", params=[(QUICK, 0), (QUICK, 1), (SWAYING, 0)], ids=["0", "1", "sways"]
)
def simulated(request: pytest.FixtureRequest) -> Episode:
    return simulate_episode(*request.param)


@pytest.fixture(scope="module")
def sample(request: pytest.FixtureRequest, simulated: Episode) -> SampleSummary:
    sways = simulated.cameras[0] is not simulated.cameras[1]
    return request.getfixturevalue("swaying_sample" if sways else "quick_sample")


@pytest.fixture(scope="module")
def listed(sample: SampleSummary, simulated: Episode) -> AgibotEpisode:
    return list_episodes(sample.root).episodes[simulated.id - FIRST_EPISODE_ID]


@pytest.fixture(scope="module")
def truth(sample: SampleSummary, simulated: Episode) -> GroundTruth:
    return read_ground_truth(sample.root / ground_truth_folder(simulated.task.id, simulated.id))


def to_matrix(q: np.ndarray) -> np.ndarray:
    """Unit quaternions xyzw -> rotation matrices."""
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


# The robot


def test_states_and_commands_come_back_as_simulated(listed: AgibotEpisode, simulated: Episode):
    assert listed.proprio is not None
    body, t = read_proprio(listed.proprio), simulated.trajectory
    assert body.effector == "gripper" and body.notes == ()
    for found, position, axes, closed, joint in (
        (body.state, t.flange_position, t.flange_axes, t.closed, t.joints),
        (
            body.action,
            t.flange_position_command,
            t.flange_axes_command,
            t.closed_command,
            t.joints_command,
        ),
    ):
        np.testing.assert_array_equal(found.position, position)
        np.testing.assert_allclose(to_matrix(found.quaternion), axes, atol=1e-9)
        np.testing.assert_allclose(found.closed, np.clip(closed, 0, 1), atol=1e-9)
        np.testing.assert_array_equal(found.joint, joint)
    off_ns = body.timestamps_ns - body.timestamps_ns[0] - np.arange(N) * 250_000_000
    assert (
        np.abs(off_ns).max() <= 600_000 and np.ptp(off_ns) > 0
    )  # jitter of up to 0.3 ms at both rows


def test_flange_poses_are_those_of_the_pictures(simulated: Episode):
    """By MuJoCo's kinematics from `qpos`, up to a hand's motion in a physics step of 2 ms."""
    model, t = simulated.scene.model, simulated.trajectory
    data, step_m = mujoco.MjData(model), 0.002 * 1.0  # m/s, faster than any hand here
    for k in range(N):
        data.qpos[:] = t.qpos[k]
        mujoco.mj_kinematics(model, data)
        for arm, side in enumerate(SIDES):
            site = data.site(f"{side}_flange")
            np.testing.assert_allclose(t.flange_position[k, arm], site.xpos, atol=step_m)
            np.testing.assert_allclose(t.flange_axes[k, arm].ravel(), site.xmat, atol=0.01)


WIDTHS = {
    "state/joint/position": (14,), "state/joint/current_value": (14,), "state/end/position": (2, 3),
    "state/end/orientation": (2, 4), "state/effector/position": (2,), "state/head/position": (2,),
    "state/waist/position": (2,), "action/joint/position": (14,), "action/end/position": (2, 3),
    "action/end/orientation": (2, 4), "action/effector/position": (2,),
    "action/head/position": (2,), "action/waist/position": (2,), "action/robot/velocity": (2,),
}  # fmt: skip


def test_the_h5_file_has_every_group_of_a_real_one(listed: AgibotEpisode):
    assert listed.proprio is not None
    with h5py.File(listed.proprio.path, "r") as file:
        found: dict[str, tuple] = {}
        file.visititems(
            lambda name, x: (
                found.update({name: (x.shape, x.dtype.str)}) if hasattr(x, "shape") else None
            )
        )
        measured = np.asarray(file["state/effector/position"])
    groups = ("joint", "end", "effector", "head", "waist", "robot")
    expected = {name: ((N, *width), "<f8") for name, width in WIDTHS.items()}
    expected |= {f"action/{group}/index": ((N,), "<i8") for group in groups} | {
        "timestamp": ((N,), "<i8")
    }
    assert found == expected | {name: ((0,), "<f4") for name in EMPTY}
    assert measured.min() > 30 and measured.max() < 130  # AGIBOT: about 35 open, 120 closed


rotations = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4)
    .map(np.array)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rotations, min_size=2, max_size=6))
def test_quaternions_are_the_rotations_and_keep_their_sign(drawn: list[np.ndarray]):
    q = np.stack(drawn) / np.linalg.norm(drawn, axis=1, keepdims=True)
    axes = np.repeat(to_matrix(q)[:, None], 2, axis=1)  # the same for both arms
    found = quaternions_xyzw(axes)
    np.testing.assert_allclose(to_matrix(found), axes, atol=1e-7)
    assert ((found[1:] * found[:-1]).sum(-1) > -1e-7).all()


# Pictures and depth


def test_the_video_shows_what_is_rendered(listed: AgibotEpisode, simulated: Episode):
    with Video(listed.videos["head_color"]) as video:
        assert (video.n_frames, video.height, video.width) == (N, QUICK.height, QUICK.width)
        np.testing.assert_allclose(video.times_s, np.arange(N) / QUICK.rate_hz, atol=1e-3)
        decoded = video.frames(range(N)).astype(float)
    rendered = np.stack([p.rgb for p in render_frames(simulated)]).astype(float)
    assert np.abs(decoded - rendered).mean() < 4  # colour is halved in size, and compressed
    error = lambda shift: np.abs(decoded[shift:] - rendered[: N - shift]).mean()  # noqa: E731
    assert error(0) < 0.8 * error(2)  # the right frame, not its neighbour


def test_depth_pictures_are_the_true_depth_with_noise_and_holes(
    listed: AgibotEpisode, truth: GroundTruth
):
    assert listed.depth is not None and listed.n_depth == N
    files = depth_frames(listed.depth)
    sensed = np.stack([read_depth_png(files[k]) for k in range(N)])
    true = truth.depth_m.astype(np.float64)
    seen = np.isfinite(sensed)
    noise = 0.001 * true**2
    steps = (
        0.001,
        np.spacing(truth.depth_m).astype(float),
    )  # of millimetres, and of the truth's 16-bit floats
    error = np.abs(np.where(seen, sensed, true) - true)
    assert (error < 5.5 * noise + sum(steps) / 2).all()
    # Rounding spreads by a step / sqrt(12)
    spread = np.sqrt(noise**2 + steps[0] ** 2 / 12 + steps[1] ** 2 / 12)
    np.testing.assert_allclose(np.std((sensed - true)[seen] / spread[seen]), 1, atol=0.05)
    assert 0.8 < seen.mean() < 1 and not seen[true > DEPTH_LIMIT_M + 0.01].any()


def test_a_depth_camera_sees_planes_whole_and_loses_some_of_their_edges():
    depth = np.full((60, 80), 1.0, np.float32)
    depth[:, 40:] = 1.5
    found = sense_depth(depth, np.random.default_rng(0))
    holes = found == 0
    assert (
        not holes[:, :38].any() and not holes[:, 42:].any() and 0.2 < holes[:, 39:41].mean() < 0.6
    )
    np.testing.assert_allclose(found[:, :38].mean(), 1000, atol=0.1)
    np.testing.assert_allclose(found[:, 42:].std(), 2.25, atol=0.2)
    assert (sense_depth(np.full((4, 4), 6.0, np.float32), np.random.default_rng(0)) == 0).all()


# The camera


def lifted(
    listed: AgibotEpisode, depth: np.ndarray, x: np.ndarray, y: np.ndarray, frame: int
) -> np.ndarray:
    """Points in the base frame, by the calibration as read from the files."""
    intrinsics, extrinsics = listed.calibration("head_color")
    assert intrinsics is not None and extrinsics is not None
    camera, pose = read_intrinsics(intrinsics), read_extrinsics(extrinsics)
    assert len(pose) == N
    local = np.stack(
        [(x - camera.cx) / camera.fx * depth, (y - camera.cy) / camera.fy * depth, depth], -1
    )
    return local @ pose[frame, :, :3].T + pose[frame, :, 3]


def projected(listed: AgibotEpisode, points: np.ndarray, frame: int) -> np.ndarray:
    intrinsics, extrinsics = listed.calibration("head_color")
    assert intrinsics is not None and extrinsics is not None
    camera, pose = read_intrinsics(intrinsics), read_extrinsics(extrinsics)[frame]
    x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).T
    return np.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], axis=1)


def test_pixels_of_the_table_are_on_the_table(
    listed: AgibotEpisode, simulated: Episode, truth: GroundTruth
):
    table = simulated.scene.model.geom("table").id
    for frame in (0, N - 1):
        y, x = np.nonzero(truth.geom[frame] == table)
        points = lifted(listed, truth.depth_m[frame, y, x].astype(float), x, y, frame)
        top = points[points[:, 0] > 0.36]  # its front face is below
        assert len(top) > 500
        np.testing.assert_allclose(top[:, 2], TABLE_TOP_M, atol=0.0015)


def test_objects_are_seen_where_the_calibration_puts_them(
    listed: AgibotEpisode, simulated: Episode, truth: GroundTruth
):
    bodies = np.array(truth.geom_body)
    tested = 0
    for obj in simulated.scene.objects:
        parts = np.flatnonzero(bodies == obj.name)
        mask = np.isin(truth.geom[0], parts)
        y, x = np.nonzero(mask)
        px, py = projected(listed, truth.geom_position_m[0, parts[:1]], 0)[0]
        if (
            mask.sum() < 30
            or min(x.min(), y.min()) < 2
            or x.max() > QUICK.width - 3
            or y.max() > QUICK.height - 3
        ):
            continue  # cut off by the frame, or hidden
        tested += 1
        assert mask[round(py), round(px)], f"{obj.words} at {px:.1f}, {py:.1f}"
        assert abs(px - (x.min() + x.max()) / 2) < 2.5 and abs(py - (y.min() + y.max()) / 2) < 4
    assert tested >= 2


def test_every_pixel_sees_along_the_ray_that_the_calibration_gives_it(
    listed: AgibotEpisode, simulated: Episode, truth: GroundTruth
):
    """Rays made from the files alone hit in the simulated scene what the picture shows."""
    frame, model = N - 1, simulated.scene.model
    data = mujoco.MjData(model)
    data.qpos[:] = simulated.trajectory.qpos[frame]
    mujoco.mj_kinematics(model, data)
    y, x = (a.ravel() for a in np.mgrid[: QUICK.height, : QUICK.width])
    origin, ends = (lifted(listed, np.full(x.shape, depth), x, y, frame) for depth in (0.0, 1.0))
    geom, distance = np.full(len(x), -1, np.int32), np.full(len(x), -1.0)
    rays = np.ascontiguousarray(ends - origin).ravel()
    mujoco.mj_multiRay(
        model, data, origin[0], rays, None, 1, -1, geom, distance, None, len(x), 100.0
    )
    same = geom == truth.geom[frame].ravel()
    assert same.mean() > 0.9999, same.mean()
    np.testing.assert_allclose(
        distance[same], truth.depth_m[frame].ravel()[same], rtol=1e-3
    )  # rays are 1 m deep


def test_the_camera_is_agibots(listed: AgibotEpisode):
    intrinsics, extrinsics = listed.calibration("head_color")
    assert intrinsics is not None and extrinsics is not None
    camera, pose = read_intrinsics(intrinsics), read_extrinsics(extrinsics)[0]
    assert camera.fx * 640 / QUICK.width == pytest.approx(322, abs=2)
    assert camera.fy * 480 / QUICK.height == pytest.approx(429, abs=2)
    assert 44 < np.degrees(np.arcsin(-pose[2, 2])) < 65  # looks down
    np.testing.assert_allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-9)


# Task texts


def test_segments_follow_each_other_through_the_episode(listed: AgibotEpisode, simulated: Episode):
    assert listed.info is not None and listed.info.task_name == simulated.task.name
    spans = [(s.start_frame, s.end_frame) for s in listed.info.segments]
    assert spans[0][0] == 0 and spans[-1][1] == N and all(a < b for a, b in spans)
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    assert all(
        s.text and s.skill in ("Pick", "Place", "Push", "Explore") for s in listed.info.segments
    )


def test_videos_are_encoded_in_the_two_ways_that_give_the_same_bytes_every_time(tmp_path):
    """By what x264 writes of itself into each file.

    With its macroblock tree, 38 of 26,286 encodings of one episode differed from the others;
    without it none of 21,228 did.
    """
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, size=(64, 48), rate_hz=4.0)
    written = (tmp_path / "a.mp4").read_bytes()
    assert b" threads=1 " in written and b" mbtree=0" in written
