from itertools import pairwise

import cv2
import numpy as np
import pytest

from stages.clips.motion import Motion, mean_motion, pair_motion


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A smooth random picture, larger than a frame."""
    coarse = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype="uint8")
    return cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC)


def noisy(frames: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).astype("uint8")


def measure_motion(frames: np.ndarray) -> Motion:
    return mean_motion([pair_motion(first, second) for first, second in pairwise(frames)])


@pytest.mark.parametrize("wall", [False, True])
def test_a_still_scene_does_not_move_for_all_its_noise(scene, wall):
    still = np.full((256, 256, 3), 180, "uint8") if wall else scene[:256, :256]
    motion = measure_motion(noisy(np.stack([still] * 8), sigma=6))
    assert motion.fastest < 0.003 and motion.unexplained < 3


@pytest.mark.parametrize("step", [4, 10, 20])
def test_a_moving_camera_is_measured_in_picture_widths(scene, step):
    frames = noisy(np.stack([scene[100:356, i * step : i * step + 256] for i in range(8)]))
    motion = measure_motion(frames)
    assert motion.whole == pytest.approx(step / 256, rel=0.25)
    assert motion.unexplained < 8  # flow explains it


def test_a_moving_thing_is_fast_and_the_rest_is_not(scene):
    frames = np.stack([scene[:256, :256]] * 8)
    for i, frame in enumerate(frames):
        frame[100:150, 40 + 12 * i : 90 + 12 * i] = (220, 30, 30)
    motion = measure_motion(noisy(frames))
    assert motion.fastest == pytest.approx(12 / 256, rel=0.5)
    assert motion.whole < 0.01


def test_a_small_thing_that_moves_a_little_stands_out_from_noise(scene):
    frames = np.stack([scene[:256, :256]] * 8)
    for i, frame in enumerate(frames):
        frame[100:120, 40 + 5 * i : 60 + 5 * i] = (220, 30, 30)  # 0.6 % of the picture
    assert measure_motion(noisy(frames)).fastest > 0.004


def test_flicker_is_left_unexplained(scene):
    light = np.random.default_rng(2).uniform(0.3, 1.0, (8, 1, 1, 1))
    motion = measure_motion((scene[None, :256, :256] * light).astype("uint8"))
    assert motion.unexplained > 30


def test_one_frame_has_no_motion(scene):
    with pytest.raises(ValueError, match="needs two frames or more"):
        measure_motion(scene[None])
