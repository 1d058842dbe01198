"""The baseline by optical flow: exact where motion is even, a copy where there is none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics import psnr
from model.value_range import IMAGES
from stages.evaluation.linear_motion import APART_PX, carry_on, moved_on
from stages.evaluation.scores import (
    CAMERA,
    DECODED,
    FREE,
    LINEAR,
    PROTOCOLS,
    TEACHER,
    ClipVideos,
    candidates,
)


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise (h w 3) in [-0.8, 0.8], which flow can follow."""
    rough = torch.randn(
        1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)
    )
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic")[0]
    return (0.8 * smooth.tanh()).permute(1, 2, 0).numpy()


def video(frames: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().contiguous()


def carried_on(frames: torch.Tensor) -> torch.Tensor:
    carried = carry_on(frames)
    assert carried is not None
    return carried


def panning(step: int, n: int = 5, side: int = 64) -> torch.Tensor:
    whole = texture(0, side, side + n * abs(step))
    starts = [t * step if step >= 0 else (n - t) * -step for t in range(n)]
    return video([whole[:, start : start + side] for start in starts])


def square_passing(step: int = 4, n: int = 6) -> torch.Tensor:
    """A textured square on a textured, still background."""
    frames, square = [], texture(3, 20, 20)
    for t in range(n):
        frame = texture(1, 64, 64).copy()
        frame[20:40, 6 + step * t : 26 + step * t] = square
        frames.append(frame)
    return video(frames)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return psnr(a[None, 2:], b[None, 2:], value_range=IMAGES).item()


@pytest.mark.parametrize("step", [-3, 2, 4])
def test_an_even_pan_is_carried_on(step):
    frames = panning(step)
    carried = carried_on(frames)
    inner = (..., slice(6, -6), slice(10, -10))
    before = torch.cat([frames[:1], frames[:-1]])
    assert error(carried[inner], frames[inner]) > error(before[inner], frames[inner]) + 8


def test_something_that_passes_is_carried_on_and_what_it_leaves_is_restored():
    frames = square_passing()
    carried, before = carried_on(frames), torch.cat([frames[:1], frames[:-1]])
    around = (..., slice(16, 44), slice(0, 60))
    assert error(carried[around], frames[around]) > error(before[around], frames[around]) + 3


def test_without_motion_and_before_any_is_known_it_is_a_copy():
    still = video([texture(2, 32, 48)] * 4)
    assert torch.allclose(carried_on(still), still, atol=1e-6)
    moving = panning(3)
    assert torch.equal(carried_on(moving)[:2], moving[[0, 0]])
    assert torch.equal(carried_on(moving[:1]), moving[:1])


def test_a_frame_depends_on_the_two_before_it_alone():
    frames = panning(2)
    other = frames.clone()
    other[3:] = -other[3:]
    one, two = carried_on(frames), carried_on(other)
    assert torch.equal(one[:4], two[:4]) and not torch.equal(one[4], two[4])


def slow_moved_on(image: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Pixel by pixel, with bilinear samples that stop at the edge."""
    height, width = image.shape[:2]

    def at(x: float, y: float) -> np.ndarray:
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        left, top = min(int(x), width - 2), min(int(y), height - 2)
        dx, dy = x - left, y - top
        upper = (1 - dx) * image[top, left] + dx * image[top, left + 1]
        lower = (1 - dx) * image[top + 1, left] + dx * image[top + 1, left + 1]
        return (1 - dy) * upper + dy * lower

    def speed(flow: np.ndarray) -> float:
        return math.hypot(float(flow[0]), float(flow[1]))

    moved = np.array([[at(x + back[y, x, 0], y + back[y, x, 1]) for x in range(width)]
                      for y in range(height)])  # fmt: skip
    painted: dict[tuple[int, int], float] = {}
    for y in range(height):
        for x in range(width):
            to = (round(float(y - back[y, x, 1])), round(float(x - back[y, x, 0])))
            if not (0 <= to[0] < height and 0 <= to[1] < width):
                continue
            there = np.asarray(back[to])
            passes = speed(there - back[y, x]) > APART_PX and speed(back[y, x]) > speed(there)
            if passes and speed(back[y, x]) >= painted.get(to, 0):
                painted[to] = speed(back[y, x])
                moved[to] = image[y, x]
    return moved


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_step_agrees_with_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (9, 12, 3)).astype(np.float32)
    # 32nds of a pixel, in which OpenCV samples
    back = (rng.integers(-96, 97, (9, 12, 2)) / 32).astype(np.float32)
    back[:, :5] = 0
    np.testing.assert_allclose(moved_on(image, back), slow_moved_on(image, back), atol=2e-3)


@given(x=st.integers(-3, 3), y=st.integers(-3, 3))
def test_an_even_flow_is_a_shift(x, y):
    image = texture(5, 16, 20)
    back = np.broadcast_to(np.float32([x, y]), (16, 20, 2)).copy()
    shifted = np.roll(image, (-y, -x), axis=(0, 1))
    inner = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(moved_on(image, back)[inner], shifted[inner], atol=1e-6)


def test_it_stands_among_the_teacher_forced_candidates_only():
    frames = square_passing()
    clip = ClipVideos(
        clip_id="", camera=frames, decoded=frames * 0.9, depth=None,
        predicted={FREE: frames, TEACHER: frames},
    )  # fmt: skip
    for reference, source in ((CAMERA, frames), (DECODED, frames * 0.9)):
        found = [(p, v) for p, method, v in candidates(clip, reference) if method == LINEAR]
        ((protocols, carried),) = found
        assert protocols == (TEACHER,) and len(PROTOCOLS) == 2
        assert torch.equal(carried, carried_on(source))


def test_frames_too_small_for_flow_have_no_such_baseline():
    assert carry_on(torch.zeros(3, 3, 11, 40)) is None
    assert carry_on(torch.zeros(3, 3, 12, 40)) is not None
