"""Windows over long videos against plain loops, laws of alignment, and what is refused."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from vda_small import SMALL, lively, timeless

from model.video_depth.config import VideoDepthConfig
from model.video_depth.model import VideoDepth
from model.video_depth.video import (
    estimate_depth,
    fit_scale_shift,
    join_windows,
    network_size,
    normalised,
    window_frames,
)

METRIC = VideoDepthConfig(**{**vars(SMALL), "metric": True})
LENGTHS = [1, 5, 16, 22, 23, 32, 33, 44, 45, 70]


class FakeNetwork(VideoDepth):
    """Computes depth by a rule in place of a network, and records its inputs."""

    def __init__(self, config: VideoDepthConfig, rule):
        super().__init__(config)
        self.rule, self.shown = rule, []

    def forward(self, frames: Tensor, *, frames_per_step: int = 4, signed: bool = False) -> Tensor:
        self.shown.append(frames)
        return self.rule(len(self.shown) - 1, frames)


def brightness(frames: Tensor) -> Tensor:
    return frames.mean(dim=2) + 3  # normalised pixels are above -2.2


def restless(call: int, frames: Tensor) -> Tensor:
    """Depth that differs between calls, so that fits leave residues, some of it below 0."""
    noise = torch.rand(brightness(frames).shape, generator=torch.Generator().manual_seed(call))
    return (brightness(frames) * (0.5 + call % 3) - 2 + noise).clamp(min=0)


def videos(n: int, b: int = 1, side: int = 14) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (b, n, side, side, 3), dtype=np.uint8)


def slow_estimate(rule, frames: np.ndarray, *, align: bool) -> np.ndarray:
    """The published procedure in plain loops, for a video of the network's input size."""
    frames_in = [
        normalised(torch.from_numpy(frame[None, None]), frame.shape[:2])[0, 0] for frame in frames
    ]
    n = len(frames_in)
    frames_in += [frames_in[-1]] * ((22 - n % 22) % 22 + 10)
    keys = [0, 12, 24, 25, 26, 27, 28, 29, 30, 31]
    out: list[np.ndarray] = []
    before: list[Tensor] = []
    references: list[np.ndarray] = []
    for call, start in enumerate(range(0, n, 22)):
        window = [frames_in[start + i] for i in range(32)]
        if call:
            for place, key in enumerate(keys):
                window[place] = before[key]
        before = window
        depth = rule(call, torch.stack(window)[None])[0].double().numpy()
        if not call:
            out, references = list(depth), [depth[0], depth[12]]
            continue
        scale, shift = slow_fit(depth[:2], references) if align else (1.0, 0.0)
        depth = np.maximum(depth * scale + shift, 0)
        for i in range(8):
            weight = i / 7
            out[len(out) - 8 + i] = out[len(out) - 8 + i] * (1 - weight) + depth[2 + i] * weight
        out += list(depth[10:])
        references = [references[0], depth[12]]
    return np.stack(out[:n])


def slow_fit(predicted, reference) -> tuple[float, float]:
    """Normal equations of scale and shift, summed pixel by pixel."""
    a00 = a01 = a11 = b0 = b1 = 0.0
    for x, y in zip(np.ravel(predicted), np.ravel(reference), strict=True):
        a00, a01, a11 = a00 + x * x, a01 + x, a11 + 1
        b0, b1 = b0 + x * y, b1 + y
    determinant = a00 * a11 - a01 * a01
    if determinant == 0:
        return 1.0, 0.0
    return (a11 * b0 - a01 * b1) / determinant, (a00 * b1 - a01 * b0) / determinant


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("config", [SMALL, METRIC], ids=["relative", "metric"])
def test_windows_agree_with_the_slow_version(n: int, config: VideoDepthConfig):
    frames = videos(n)
    made = estimate_depth(FakeNetwork(config, restless), frames, input_size=14)
    expected = slow_estimate(restless, frames[0], align=not config.metric)
    assert made.shape == (1, n, 14, 14) and made.dtype == np.float32
    assert np.abs(made[0] - expected).max() < 2e-5 * max(1.0, expected.max())


@pytest.mark.parametrize(("n", "n_windows"), [(1, 1), (22, 1), (23, 2), (32, 2), (44, 2), (45, 3)])
def test_windows_start_every_22_frames_with_key_frames(n: int, n_windows: int):
    windows = window_frames(n)
    assert len(windows) == n_windows and all(len(window) == 32 for window in windows)
    assert all(window[0] == 0 for window in windows)
    for number, (before, window) in enumerate(itertools.pairwise(windows), 1):
        assert window[1] == before[12]
        assert window[2:10] == before[24:]
        assert window[10:] == [min(22 * number + i, n - 1) for i in range(10, 32)]


@pytest.mark.parametrize("n", [33, 45, 70])
def test_alignment_undoes_any_scale_and_shift_of_a_window(n: int):
    def rule(call: int, frames: Tensor) -> Tensor:
        return brightness(frames) * (1.0, 0.3, 4.0, 2.0)[call] + (0.0, 2.0, 0.5, 1.0)[call]

    frames = videos(n)
    aligned = estimate_depth(FakeNetwork(SMALL, rule), frames, input_size=14)
    plain = brightness(normalised(torch.from_numpy(frames), (14, 14)))
    assert_close(torch.from_numpy(aligned), plain, atol=1e-4, rtol=0)
    unaligned = torch.from_numpy(estimate_depth(FakeNetwork(METRIC, rule), frames, input_size=14))
    assert (unaligned[:, 22:] - plain[:, 22:]).abs().max() > 1


def test_windows_are_blended_over_eight_frames():
    network = FakeNetwork(METRIC, lambda call, x: torch.full_like(x[:, :, 0], call))
    depth = estimate_depth(network, videos(54), input_size=14)
    fade = [i / 7 for i in range(8)]
    expected = [0] * 24 + fade + [1] * 14 + [1 + w for w in fade]
    assert depth[0, :, 3, 5].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_constant_prediction_is_not_rescaled():
    network = FakeNetwork(SMALL, lambda call, x: torch.full_like(x[:, :, 0], call + 0.1))
    depth = estimate_depth(network, videos(33), input_size=14)
    assert depth[0, -1, 0, 0] == pytest.approx(1.1)


def test_fit_agrees_with_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    predicted, reference = torch.rand(2, 3, 2, 4, 5, generator=generator).unbind(1)[:2]
    scale, shift = fit_scale_shift(predicted, reference)
    for i in range(2):
        slow = slow_fit(predicted[i].double().numpy(), reference[i].double().numpy())
        assert (scale[i].item(), shift[i].item()) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("windows", ["official", "direct"])
def test_videos_in_a_batch_are_independent(windows):
    network, frames = lively(), videos(27, b=2, side=30)
    together = estimate_depth(network, frames, input_size=28, windows=windows)
    for video, depth in zip(frames, together, strict=True):
        alone = estimate_depth(network, video[None], input_size=28, windows=windows)
        assert np.abs(alone[0] - depth).max() < 1e-4


@pytest.mark.parametrize("windows", ["official", "direct"])
def test_still_video_gives_still_depth_if_frames_are_independent(windows):
    torch.manual_seed(0)
    frames = np.repeat(videos(1, side=20), 30, axis=1)
    depth = estimate_depth(VideoDepth(SMALL).eval(), frames, input_size=28, windows=windows)
    assert depth.std() > 0 and np.abs(depth - depth[:, :1]).max() < 1e-5


@pytest.mark.parametrize("windows", ["official", "direct"])
def test_still_video_gives_still_depth_without_frame_numbers(windows):
    """Also with active motion modules: errors in them, padding or alignment would show."""
    frames = np.repeat(videos(1, b=2, side=20), 30, axis=1)
    depth = estimate_depth(timeless(lively()), frames, input_size=28, windows=windows)
    assert np.abs(depth - depth[:, :1]).max() < 1e-5
    assert (
        np.ptp(estimate_depth(lively(), frames, input_size=28, windows=windows), axis=1).max()
        > 1e-2
    )


def test_direct_is_one_forward_pass_without_padding():
    network, frames = FakeNetwork(SMALL, restless), videos(16, side=28)
    depth = estimate_depth(network, frames, input_size=28, windows="direct")
    (shown,) = network.shown
    assert shown.shape == (1, 16, 3, 28, 28)
    assert_close(torch.from_numpy(depth), restless(0, shown), atol=1e-6, rtol=0)


def test_depth_has_the_size_of_the_frames():
    shown = []

    def ramp(_call: int, frames: Tensor) -> Tensor:
        shown.append(frames.shape[-2:])
        return torch.linspace(1, 2, frames.shape[-1]).expand(frames[:, :, 0].shape)

    frames = np.zeros((1, 2, 30, 50, 3), np.uint8)
    depth = estimate_depth(FakeNetwork(SMALL, ramp), frames, input_size=28, windows="direct")
    assert shown == [network_size(30, 50, 28)] == [(28, 42)]
    assert depth.shape == (1, 2, 30, 50)
    # Corners onto corners
    assert depth[0, 1, 7].tolist() == pytest.approx(np.linspace(1, 2, 50).tolist(), abs=1e-5)


def test_frames_are_scaled_by_their_channels_statistics():
    frames = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(1, 1, 14, 14, 3)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert normalised(frames, (28, 14))[0, 0, :, 20, 3].tolist() == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("windows", ["official", "direct"])
def test_nan_is_kept(windows):
    def spoiled(call: int, frames: Tensor) -> Tensor:
        depth = brightness(frames)
        depth[:, 13, 2, 3] = torch.nan
        return depth

    depth = estimate_depth(FakeNetwork(SMALL, spoiled), videos(30), input_size=14, windows=windows)
    assert np.isnan(depth[0, 13, 2, 3]) and not np.isnan(depth[0, 0]).any()


def test_nan_in_a_reference_spreads_to_all_that_is_aligned_by_it():
    windows = [torch.rand(1, 32, 2, 2) for _ in range(2)]
    windows[0][:, 12, 0, 0] = torch.nan
    joined = join_windows(iter(windows), align=True)
    assert joined[:, 32:].isnan().all() and not joined[:, :12].isnan().any()


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        (videos(33), {"windows": "direct"}, "a video of 33 frames with windows='direct'"),
        (videos(0), {}, r"shape \(1, 0, 14, 14, 3\): expected at least one frame"),
        (
            videos(2),
            {"precision": "float16"},
            "precision='float16' on cpu: mixed precision is for CUDA",
        ),
    ],
)
def test_impossible_requests_are_refused(frames, settings, message):
    with pytest.raises(ValueError, match=message):
        estimate_depth(lively(), frames, **settings)


def test_an_input_below_one_pixel_is_refused():
    assert network_size(10, 100, 98) == (14, 140)
    with pytest.raises(ValueError, match="frames of 10 x 1000 px leave an input size of 0"):
        network_size(10, 1000, 98)


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate_depth(lively(), videos(2), input_size=14)
