import cv2
import numpy as np
import pytest

from stages.shot_cuts import CutRule, changes, find_cut

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
    assert cut.change > RULE.sudden_change and cut.ratio > RULE.ratio


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


def test_cuts_in_a_row_count_by_their_size():
    """Successive changes stand out little from each other, but each is large."""
    frames = np.stack([255 * (i % 2) * np.ones((48, 64, 3)) for i in range(12)]).astype("uint8")
    change, ratio = changes(frames).T
    assert (change[1:] == 255).all() and ratio.max() < 3
    assert find_cut(frames, RULE) is not None


def test_noise_in_the_hue_of_grey_is_no_cut():
    rng = np.random.default_rng(0)
    grey = np.full((20, 192, 256, 3), 128, "uint8")
    grey[10:] += rng.integers(0, 3, (10, 1, 1, 3), dtype="uint8")  # as a key frame's other rounding
    assert find_cut(grey, RULE) is None


def test_changes_have_a_row_for_each_frame():
    frames = moving(0, 7)
    measured = changes(frames)
    assert measured.shape == (7, 2) and measured[0].tolist() == [0, 0]
    np.testing.assert_array_equal(measured, changes(list(frames)))
