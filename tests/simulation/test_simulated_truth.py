"""Ground truth of simulated episodes against a slow version: every ray, and poses by MuJoCo."""

import cv2
import mujoco
import numpy as np
import pytest
from sample_configs import QUICK, SWAYING

from simulation.ground_truth import NOTHING, GroundTruth, geom_bodies, geom_poses, read_ground_truth
from simulation.recording import Episode, ground_truth_folder, render_frames, simulate_episode
from simulation.renderer import FAR_M, pixel_rays
from stages.exact_labels import TrueTracks, true_tracks

N = QUICK.n_frames
FRAMES = np.arange(N)
SIZE = (QUICK.height, QUICK.width)


@pytest.fixture(
    scope="module", params=[(QUICK, 0), (QUICK, 1), (SWAYING, 0)], ids=["0", "1", "sways"]
)
def episode(request: pytest.FixtureRequest) -> Episode:
    return simulate_episode(*request.param)


@pytest.fixture(scope="module")
def truth(request: pytest.FixtureRequest, episode: Episode) -> GroundTruth:
    sample = request.getfixturevalue("swaying_sample" if sways(episode) else "quick_sample")
    return read_ground_truth(sample.root / ground_truth_folder(episode.task.id, episode.id))


def sways(episode: Episode) -> bool:
    return episode.cameras[0] is not episode.cameras[1]


@pytest.fixture(scope="module")
def tracks(truth: GroundTruth) -> TrueTracks:
    """Of points at the centres of pixels, whose depth is known exactly."""
    y, x = np.mgrid[1 : SIZE[0] : 3, 1 : SIZE[1] : 4]
    return true_tracks(
        truth, FRAMES, np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32), SIZE
    )


def cast(
    episode: Episode, frame: int, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(geom, depth) at these places of the picture, with one ray each against everything."""
    model, camera, n = episode.scene.model, episode.cameras[frame], len(x)
    data = mujoco.MjData(model)
    data.qpos[:] = episode.trajectory.qpos[frame]
    mujoco.mj_kinematics(model, data)
    rays, along = pixel_rays(camera, x.astype(float), y.astype(float))
    geom, distance = np.full(n, -1, np.int32), np.full(n, -1.0)
    flat = np.ascontiguousarray(rays).ravel()
    mujoco.mj_multiRay(
        model, data, camera.position_m, flat, None, 1, -1, geom, distance, None, n, FAR_M
    )
    return geom, np.where(geom >= 0, distance * along, FAR_M)


def test_the_fast_renderer_equals_casting_every_ray(episode: Episode):
    y, x = np.divmod(np.arange(SIZE[0] * SIZE[1]), SIZE[1])
    for frame, picture in enumerate(render_frames(episode)):
        if frame % 3 == 0:
            geom, depth = cast(episode, frame, x, y)
            np.testing.assert_array_equal(picture.geom.ravel(), geom)
            np.testing.assert_allclose(picture.depth_m.ravel(), depth, rtol=1e-6)


def test_what_is_stored_is_what_was_rendered(episode: Episode, truth: GroundTruth):
    rendered = list(render_frames(episode))
    np.testing.assert_array_equal(
        truth.depth_m, np.stack([p.depth_m.astype(np.float16) for p in rendered])
    )
    np.testing.assert_array_equal(truth.geom, np.stack([p.geom for p in rendered]))
    position, axes = geom_poses(episode.scene, episode.trajectory.qpos)
    np.testing.assert_array_equal(truth.geom_position_m, position)
    np.testing.assert_allclose(truth.geom_axes, axes, atol=1e-6)
    assert truth.geom_body == geom_bodies(episode.scene)
    assert truth.labels["objects"].keys() == {obj.name for obj in episode.scene.objects}


def test_every_part_belongs_to_something_with_a_name(episode: Episode):
    names = set(geom_bodies(episode.scene))
    objects = {obj.name for obj in episode.scene.objects}
    assert names >= objects | {
        "world",
        "tray",
        "left_hand",
        "right_hand",
        "left_finger0",
        "right_finger1",
    }
    assert "" not in names


def follow(
    episode: Episode, tracks: TrueTracks, frame: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(geom, place in pixels, depth) at `frame` of the points seen in frame 0, one by one and
    without the truth.
    """
    camera, later = episode.cameras[0], episode.cameras[frame]
    data = mujoco.MjData(episode.scene.model)
    geom, depth = cast(episode, 0, *tracks.tracks[0].T)
    poses = []
    for k in (0, frame):
        data.qpos[:] = episode.trajectory.qpos[k]
        mujoco.mj_kinematics(episode.scene.model, data)
        poses.append((data.geom_xpos.copy(), data.geom_xmat.reshape(-1, 3, 3).copy()))
    places, z = np.zeros((len(geom), 2)), np.zeros(len(geom))
    for p, g in enumerate(geom):
        x, y = tracks.tracks[0, p].astype(float)
        ray = np.array([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0])
        world = camera.position_m + camera.rotation @ ray * depth[p]
        local = poses[0][1][g].T @ (world - poses[0][0][g])
        there = poses[1][0][g] + poses[1][1][g] @ local
        u, v, z[p] = later.rotation.T @ (there - later.position_m)
        places[p] = camera.cx + camera.fx * u / z[p], camera.cy + camera.fy * v / z[p]
    return geom, places, z


@pytest.mark.parametrize("frame", [4, N - 1])
def test_tracked_points_are_on_the_geom_seen_there(
    episode: Episode, truth: GroundTruth, tracks: TrueTracks, frame: int
):
    """A ray through a visible point hits that point, and the slow version finds the same place."""
    geom, places, z = follow(episode, tracks, frame)
    shown, there = tracks.visible[frame], tracks.tracks[frame]
    assert (
        np.linalg.norm(there - places, axis=1)[shown].max() < 0.03
    )  # px; the truth's depth has steps of 0.5 mm
    np.testing.assert_allclose(tracks.depth_m[frame], z, atol=0.002)  # hidden ones too
    inner = shown & away_from_outlines(truth.geom[frame], there, geom)
    seen, depth = cast(episode, frame, *there[inner].T)
    assert inner.sum() > 300
    np.testing.assert_array_equal(seen, geom[inner])
    np.testing.assert_allclose(depth, z[inner], atol=0.001)


def away_from_outlines(picture: np.ndarray, places: np.ndarray, geom: np.ndarray) -> np.ndarray:
    """Whether all 3 x 3 pixels around a place show this geom: outlines depend on rounding."""
    x, y = np.clip(np.round(places).astype(int).T, 0, np.array(SIZE)[::-1, None] - 1)
    padded = np.pad(picture, 1, constant_values=NOTHING)
    return np.all([padded[y + dy, x + dx] == geom for dy in range(3) for dx in range(3)], axis=0)


def test_points_on_still_geoms_stay(episode: Episode, truth: GroundTruth, tracks: TrueTracks):
    x, y = np.round(tracks.tracks[0]).astype(int).T
    still = np.array([truth.geom_body[g] in ("world", "tray") for g in truth.geom[0, y, x]])
    assert still.sum() > 100
    places, way = tracks.places_m, tracks.tracks - tracks.tracks[0]
    np.testing.assert_allclose(places[:, still] - places[0, still], 0, atol=1e-12)
    shift = np.linalg.norm(way[:, still], axis=-1)
    assert shift.max(0).min() > 1 if sways(episode) else shift.max() < 1e-4
    assert np.linalg.norm(places[-1, ~still] - places[0, ~still], axis=1).max() > 0.05  # a hand


def test_the_picture_goes_along_with_points_on_still_geoms(
    episode: Episode, truth: GroundTruth, tracks: TrueTracks
):
    """A point keeps its brightness in a moving camera's pictures; a place in them does not."""
    pictures = [picture.rgb.mean(axis=2) for picture in render_frames(episode)]
    x, y = np.round(tracks.tracks[0]).astype(int).T
    still = np.array([truth.geom_body[g] == "world" for g in truth.geom[0, y, x]])
    for frame in (4, N - 1):
        there = tracks.tracks[frame]
        chosen = still & tracks.visible[frame] & (truth.geom[frame, y, x] == truth.geom[0, y, x])
        before, after, stayed = (
            sampled(pictures[t], at[chosen])
            for t, at in ((0, tracks.tracks[0]), (frame, there), (frame, tracks.tracks[0]))
        )
        along, in_place = np.median(np.abs(after - before)), np.median(np.abs(stayed - before))
        assert along < 0.8  # of 255: the sensor's noise
        assert along < (0.6 if sways(episode) else 1.01) * in_place


def sampled(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A picture's values at (x, y), bilinear."""
    x, y = places.astype(np.float32).T
    return cv2.remap(picture.astype(np.float32), x[None], y[None], cv2.INTER_LINEAR)[0]


@pytest.mark.parametrize("frame", [4, N - 1])
def test_a_point_is_occluded_only_by_something_in_front_of_it(
    episode: Episode, tracks: TrueTracks, frame: int
):
    geom, places, z = follow(episode, tracks, frame)
    x, y = places.T
    inside = (x > 0) & (x < SIZE[1] - 1) & (y > 0) & (y < SIZE[0] - 1)
    hidden = inside & ~tracks.visible[frame]
    seen, depth = cast(episode, frame, x[hidden], y[hidden])
    assert hidden.sum() > 5
    behind = (depth < z[hidden] - 0.005) | (seen != geom[hidden])
    # A moving camera may show another sliver of a point's surface, smaller than a pixel
    assert (~behind).sum() <= (1 if sways(episode) else 0)
    assert not tracks.visible[frame][
        ~inside & ((x < -1) | (x > SIZE[1]) | (y < -1) | (y > SIZE[0]))
    ].any()
