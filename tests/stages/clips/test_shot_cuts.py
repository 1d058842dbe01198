import cv2
import numpy as np
import pytest

from stages.clips.shot_cuts import CutRule, find_cut, maybe_cuts, measure_changes

RULE = CutRule()


def scene(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype="uint8")
    return cv2.resize(coarse, (256, 192), interpolation=cv2.INTER_CUBIC)


def moving(seed: int, n: int) -> np.ndarray:
    """A thing that covers a ninth of the picture and crosses it in a second."""
    frames = np.stack([scene(seed)] * n)
    for i, frame in enumerate(frames):
        x = 6 * i % 190
        frame[60:130, x : x + 70] = (200, 40, 40)
    return frames


@pytest.mark.parametrize("at", [1, 2, 10, 17, 19])
def test_finds_a_cut_between_two_scenes(at):
    frames = np.concatenate([moving(0, at), moving(1, 20 - at)])
    cut = find_cut(frames, RULE)
    assert cut is not None and cut.frame == at
    assert cut.change > RULE.change and cut.ratio > RULE.ratio and cut.share > RULE.share


def test_fast_motion_is_no_cut():
    assert find_cut(moving(0, 20), RULE) is None
    assert find_cut(moving(0, 20)[::3], RULE) is None  # at 10 Hz


def test_a_still_scene_and_a_single_frame_have_no_cut():
    assert find_cut(np.stack([scene(0)] * 5), RULE) is None
    assert find_cut(scene(0)[None], RULE) is None
    assert find_cut([], RULE) is None


def test_only_the_frames_asked_for_can_be_the_cut():
    frames = np.concatenate([moving(0, 10), moving(1, 10)])
    assert find_cut(frames, RULE, among=slice(0, 10)) is None
    assert find_cut(frames, RULE, among=slice(11, None)) is None
    cut = find_cut(frames, RULE, among=slice(10, 11))
    assert cut is not None and cut.frame == 10


def test_noise_in_the_hue_of_grey_is_no_cut():
    rng = np.random.default_rng(0)
    grey = np.full((20, 192, 256, 3), 128, "uint8")
    grey[10:] += rng.integers(0, 3, (10, 1, 1, 3), dtype="uint8")  # as a key frame's other rounding
    assert find_cut(grey, RULE) is None


def test_an_arm_that_fills_half_the_picture_at_once_is_no_cut():
    frames = np.stack([scene(0)] * 12)
    frames[6:, :, :128] = (20, 20, 20)
    found = measure_changes(frames)
    assert found.mean[6] > RULE.change and found.ratio[6] > RULE.ratio
    assert find_cut(frames, RULE) is None


def test_a_turning_camera_is_no_cut():
    wide = np.concatenate([scene(i) for i in range(4)], axis=1)
    frames = np.stack([wide[:, 24 * i : 24 * i + 256] for i in range(20)])
    assert np.median(measure_changes(frames).share) > RULE.share
    assert find_cut(frames, RULE) is None


def test_a_cut_shows_between_the_frames_of_a_clip():
    frames = np.concatenate([moving(0, 100), moving(1, 80)])[::15]
    assert maybe_cuts(frames, RULE).tolist() == [7]
    assert maybe_cuts(moving(0, 180)[::15], RULE).tolist() == []


def test_each_frame_is_measured_against_the_one_before():
    frames = moving(0, 7)
    found = measure_changes(frames)
    assert len(found.mean) == len(found.ratio) == len(found.share) == 7
    assert found.mean[0] == found.share[0] == 0
    small = np.stack(
        [
            cv2.cvtColor(cv2.resize(f, (64, 48), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
            for f in frames
        ]
    )
    for i in range(1, 7):
        assert found.share[i] == (np.abs(small[i].astype(int) - small[i - 1]) > 12).mean()
