"""Metrics that torchmetrics has, too: both give the same values.

torchmetrics' LPIPS comes with weights of its own; ours is tested in `test_lpips.py`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics.functional import mean_absolute_percentage_error
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from model.frechet import frechet_distance
from model.metrics import SSIM_EDGE, abs_rel, frame_psnr, psnr, ssim, ssim_map
from model.value_range import IMAGES

B, T = 2, 3


def videos(seed: int, by: float, size: tuple[int, int] = (19, 24)) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    target = torch.rand(B, T, 3, *size, generator=noise) * 2 - 1
    shaken = target + by * torch.randn(target.shape, generator=noise)
    return shaken.clamp(-1, 1), target


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), by=st.floats(0.01, 1))
def test_psnr(seed, by):
    predicted, target = videos(seed, by)
    frames = [
        [
            peak_signal_noise_ratio(predicted[b, t], target[b, t], data_range=(-1.0, 1.0))
            for t in range(T)
        ]
        for b in range(B)
    ]
    expected = torch.tensor(frames)
    assert_close(frame_psnr(predicted, target, value_range=IMAGES), expected, rtol=1e-4, atol=1e-4)
    of_clips = psnr(predicted, target, value_range=IMAGES)
    assert_close(of_clips, expected.mean(1), rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), by=st.floats(0.01, 1))
def test_ssim(seed, by):
    """Ours counts windows inside the frame, as the paper; torchmetrics also those that reach over
    its edge, onto a mirrored one.
    """
    predicted, target = videos(seed, by)
    units = [(video.flatten(0, 1).double() + 1) / 2 for video in (predicted, target)]
    found = structural_similarity_index_measure(*units, data_range=1.0, return_full_image=True)
    inner = found[1][..., SSIM_EDGE:-SSIM_EDGE, SSIM_EDGE:-SSIM_EDGE].mean(dim=1)
    expected = inner.unflatten(0, (B, T))
    assert_close(ssim_map(predicted, target, value_range=IMAGES), expected, rtol=1e-4, atol=1e-6)
    score = ssim(predicted, target, value_range=IMAGES)
    assert_close(score, expected.mean(dim=(1, 2, 3)).float(), rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 10_000))
def test_abs_rel(seed):
    """torchmetrics calls it mean absolute percentage error."""
    noise = torch.Generator().manual_seed(seed)
    target = torch.rand(B, T, 4, 5, generator=noise) * 3 + 0.5
    predicted = target * torch.exp(0.4 * torch.randn(target.shape, generator=noise))
    valid = torch.rand(target.shape, generator=noise) < 0.7
    valid[:, 0, 0, 0] = True
    found = abs_rel(predicted_depth=predicted, target_depth=target, valid=valid)
    for b in range(B):
        expected = mean_absolute_percentage_error(predicted[b][valid[b]], target[b][valid[b]])
        assert_close(found[b], expected, rtol=1e-5, atol=1e-6)


class Features(nn.Module):
    """Images whose pixels are the features."""

    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("n", [4, 50])  # fewer samples than features, and more
@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance(seed: int, n: int):
    noise = torch.Generator().manual_seed(seed)
    one = torch.randn(n, 6, generator=noise, dtype=torch.float64)
    mix = torch.randn(6, 6, generator=noise, dtype=torch.float64)
    two = torch.randn(n + 2, 6, generator=noise, dtype=torch.float64) @ mix + 0.5
    theirs = FrechetInceptionDistance(feature=Features(), normalize=True).set_dtype(torch.float64)
    for features, real in ((one, True), (two, False)):
        theirs.update(features[:, :, None, None], real=real)
    expected = theirs.compute().item()
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-4, abs=1e-5)
