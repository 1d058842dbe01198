import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_stores import square_clips

from stages.depth.scaling import image_to_depth
from stages.drawing.pictures import colour_depth
from stages.tokenizer.images import (
    MARGIN_PX,
    MOVED,
    READS,
    detail_map,
    images_of,
    images_to_rgb,
    median_frame,
    moving_mask,
    picture_frames,
    rgb_to_images,
)

frames = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.just(3))
)


@given(frames)
@settings(deadline=None)
def test_rgb_frames_round_trip_through_images(rgb):
    images = rgb_to_images(rgb)
    assert images.shape == (len(rgb), 3, *rgb.shape[1:3]) and images.dtype == torch.float32
    assert images.abs().max() <= 1
    np.testing.assert_array_equal(images_to_rgb(images), rgb)


@given(st.floats(-3, 3, width=32))
@settings(deadline=None)
def test_images_are_clamped_and_rounded_to_the_nearest_level(value):
    level = int(images_to_rgb(torch.full((3, 1, 1), value))[0, 0, 0])
    assert abs(level - min(max((value + 1) * 127.5, 0), 255)) <= 0.5 + 1e-4


def test_black_grey_and_white():
    rgb = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3)
    np.testing.assert_allclose(rgb_to_images(rgb).flatten(), [-1, -0.6, 1], rtol=1e-6)


def test_layout_is_channels_first():
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3)).astype(np.uint8)
    images = images_of("rgb", {"rgb": rgb})
    for b, t, y, x, c in np.ndindex(rgb.shape):
        assert images[b, t, c, y, x] == np.float32(rgb[b, t, y, x, c]) / 127.5 - 1


def test_depth_images_have_three_equal_channels_that_give_the_depth_back():
    depth = square_clips(2)["depth"]
    images = images_of("depth", {name: depth[name] for name in READS["depth"][1]})
    assert images.shape == (2, 16, 3, 32, 32) and images.abs().max() <= 1
    assert torch.equal(images[:, :, 0], images[:, :, 1]) and torch.equal(
        images[:, :, 0], images[:, :, 2]
    )
    again = image_to_depth(images[:, :, 0].numpy(), depth["inverse_depth_range"])
    np.testing.assert_allclose(again, depth["inverse_depth"].astype(np.float32), atol=1e-6)


def test_each_clip_has_its_own_range():
    depth = square_clips(2)["depth"]
    depth["inverse_depth_range"][1] = [0.5, 8.0]
    images = images_of("depth", {name: depth[name] for name in READS["depth"][1]})
    assert images[0].max() == 1 and images[1].max() == pytest.approx(2 * (2.0 - 0.5) / 7.5 - 1)


def test_every_source_reads_what_its_images_need():
    for source, (role, names) in READS.items():
        assert images_of(source, {name: square_clips(1)[role][name] for name in names}).shape == (
            1,
            16,
            3,
            32,
            32,
        )


# -- what moves ------------------------------------------------------------------------------------


def grown(changed: np.ndarray) -> np.ndarray:
    """Everything at most MARGIN_PX rows and columns from a change, in plain loops."""
    found = np.zeros_like(changed)
    for t, y, x in zip(*np.nonzero(changed), strict=True):
        found[
            t, max(0, y - MARGIN_PX) : y + MARGIN_PX + 1, max(0, x - MARGIN_PX) : x + MARGIN_PX + 1
        ] = True
    return found


@given(arrays.arrays(np.int8, (5, 7, 9), elements=st.sampled_from([0, 0, 0, 0, 20, -20, 10])))
@settings(deadline=None)
def test_moving_is_what_differs_from_the_median_frame_and_a_margin(levels):
    images = torch.from_numpy(levels.astype(np.float32) / 127.5)[:, None].repeat(1, 3, 1, 1)
    changed = (
        abs(levels.astype(float) - np.median(levels, axis=0)) / 127.5 > MOVED
    )  # an odd number of frames
    np.testing.assert_array_equal(moving_mask(images).numpy(), grown(changed))


@pytest.mark.parametrize("n_frames", [1, 2, 5, 16])
def test_the_median_frame_is_that_of_torch(n_frames):
    images = torch.rand(n_frames, 3, 4, 5, generator=torch.Generator().manual_seed(n_frames))
    assert torch.equal(median_frame(images), images.median(dim=0, keepdim=True).values)


def test_a_change_in_one_channel_is_motion_and_noise_is_not():
    images = torch.zeros(5, 3, 9, 9)
    images += 0.5 * MOVED * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    assert not moving_mask(images).any()
    images[2, 1, 4, 4] = 0.9
    mask = moving_mask(images)
    assert mask[2, 2:7, 2:7].all() and mask.sum() == 25


def test_a_still_clip_does_not_move_and_brightness_alone_does_not_matter():
    images = rgb_to_images(square_clips(1)["clip"]["rgb"][0])
    assert not moving_mask(images[:1].repeat(4, 1, 1, 1)).any()
    assert torch.equal(moving_mask(images), moving_mask(images + 0.125))
    assert moving_mask(images).any()


def test_motion_relative_to_a_given_background():
    images = rgb_to_images(square_clips(1)["clip"]["rgb"][0])
    mask = moving_mask(images, still=images[:1])
    assert not mask[0].any() and mask[-1].any()
    assert torch.equal(mask[5:], moving_mask(images[5:], still=images[:1])), "frame by frame"


# -- pictures --------------------------------------------------------------------------------------


def test_rgb_is_shown_as_it_is_and_depth_in_colours():
    clips = square_clips(1)
    rgb = clips["clip"]["rgb"]
    np.testing.assert_array_equal(picture_frames("rgb", images_of("rgb", {"rgb": rgb})[0]), rgb[0])
    depth = clips["depth"]
    images = images_of("depth", {name: depth[name] for name in READS["depth"][1]})[0]
    expected = colour_depth(
        depth["inverse_depth"][0], depth["valid"][0], depth["inverse_depth_range"][0]
    )
    shown = picture_frames("depth", images)
    assert shown.shape == (16, 32, 32, 3)
    assert (
        np.abs(shown.astype(int) - expected).max() <= 8
    )  # one step of the colour map: rounding may fall either way


def test_small_coloured_things_stand_out_most_and_plain_areas_not_at_all():
    images = torch.full((1, 3, 64, 64), -0.1)
    grey, red = (slice(10, 14), slice(10, 14)), (slice(40, 44), slice(40, 44))
    images[(0, slice(None), *grey)] += 0.2  # as far in RGB as the red one
    images[(0, slice(None), *red)] += torch.tensor([0.28, -0.14, -0.14]).view(3, 1, 1)
    (found,) = detail_map(images)
    assert found[25:30, 25:30].max() == 0
    assert found[red].min() > 1.5 * found[grey].max() > 0


@pytest.mark.parametrize("side", [8, 64, 97])
def test_detail_is_measured_at_any_size(side):
    found = detail_map(torch.rand(2, 3, side, side) * 2 - 1)
    assert found.shape == (2, side, side) and found.dtype == np.uint8 and found.max() > 100


def test_frames_of_another_type_are_refused_not_scaled():
    """Without the annotations' own check, as in normal runs."""
    unchecked = inspect.unwrap(rgb_to_images)
    with pytest.raises(ValueError, match="frames of float32: expected uint8 in 0-255"):
        unchecked(np.ones((1, 4, 4, 3), np.float32))
