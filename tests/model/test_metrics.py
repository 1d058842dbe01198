"""Metrics against slow versions in plain loops, and the laws they obey."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from model.detail_metrics import chroma_psnr, colour_kept, detail_psnr
from model.metrics import (
    MAX_PSNR,
    TAPVID_THRESHOLDS,
    abs_rel,
    align_scale_shift,
    average_jaccard,
    delta_accuracy,
    delta_psnr,
    depth_from_inverse,
    frame_psnr,
    frames_after_query,
    lpips,
    occlusion_accuracy,
    position_accuracy,
    psnr,
    ssim,
)
from model.value_range import IMAGES, check_range


def videos(
    seed: int = 0, size: tuple[int, int] = (14, 17), b: int = 2, t: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """A predicted and a true clip in [-1, 1] and a mask of the pixels that count."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(b, t, 3, *size, generator=generator) * 2 - 1
    predicted = (target + 0.3 * torch.randn(target.shape, generator=generator)).clamp(-1, 1)
    mask = torch.rand(b, t, *size, generator=generator) < 0.4
    return predicted, target, mask


def depths(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 3, 5, 6, generator=generator) * 3 + 0.5
    predicted = target * torch.exp(0.4 * torch.randn(target.shape, generator=generator))
    return predicted, target, torch.rand(target.shape, generator=generator) < 0.7


# --- images


def test_psnr_agrees_with_a_plain_loop():
    predicted, target, mask = videos()
    expected = []
    for clip in range(2):
        frames = []
        for frame in range(3):
            errors = [
                (predicted[clip, frame, c, y, x].item() - target[clip, frame, c, y, x].item()) ** 2
                for c in range(3)
                for y in range(14)
                for x in range(17)
                if mask[clip, frame, y, x]
            ]
            frames.append(20 * math.log10(2 / math.sqrt(sum(errors) / len(errors))))
        expected.append(sum(frames) / 3)
    assert_close(
        psnr(predicted, target, mask, value_range=IMAGES), torch.tensor(expected), rtol=1e-5, atol=0
    )


def test_psnr_does_not_depend_on_the_value_range_it_came_from():
    predicted, target, _ = videos()
    as_bytes = [((video + 1) * 127.5).double() for video in (predicted, target)]
    by_hand = 10 * torch.log10(255**2 / (as_bytes[0] - as_bytes[1]).square().mean(dim=(2, 3, 4)))
    assert_close(
        frame_psnr(predicted, target, value_range=IMAGES), by_hand.float(), rtol=1e-5, atol=0
    )


def test_psnr_of_equal_clips_is_the_cap():
    clip = torch.zeros(1, 2, 3, 16, 16)
    other = clip.clone()
    other[0, 0, 1, 5, 5] += 2 / 255
    assert psnr(clip, clip, value_range=IMAGES).item() == MAX_PSNR
    assert frame_psnr(other, clip, value_range=IMAGES)[0, 1].item() == MAX_PSNR
    assert 70 < frame_psnr(other, clip, value_range=IMAGES)[0, 0].item() < MAX_PSNR


def test_psnr_averages_frames_that_have_mask_pixels():
    predicted, target, mask = videos()
    mask[0, 1] = False
    per_frame = frame_psnr(predicted, target, mask, value_range=IMAGES)
    assert per_frame[0].isnan().tolist() == [False, True, False]
    assert_close(psnr(predicted, target, mask, value_range=IMAGES)[0], per_frame[0, [0, 2]].mean())


def test_pixels_outside_the_mask_do_not_count():
    predicted, target, mask = videos()
    other = torch.where(mask[:, :, None], predicted, -predicted)
    assert_close(
        psnr(other, target, mask, value_range=IMAGES),
        psnr(predicted, target, mask, value_range=IMAGES),
    )
    assert (
        psnr(other, target, value_range=IMAGES) != psnr(predicted, target, value_range=IMAGES)
    ).all()


def test_delta_psnr_is_the_difference():
    predicted, target, mask = videos()
    worse = (predicted + 0.4).clamp(-1, 1)
    expected = psnr(predicted, target, mask, value_range=IMAGES) - psnr(
        worse, target, mask, value_range=IMAGES
    )
    assert_close(delta_psnr(predicted, worse, target, mask, value_range=IMAGES), expected)
    assert (delta_psnr(worse, worse, target, value_range=IMAGES) == 0).all()


def slow_ssim(predicted: np.ndarray, target: np.ndarray, counts: np.ndarray) -> float:
    """SSIM of a frame (c h w) in [0, 1], window by window; `counts` (h w) chooses the centres."""
    offset = np.arange(11) - 5
    weight = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    scores = []
    for y in range(5, predicted.shape[1] - 5):
        for x in range(5, predicted.shape[2] - 5):
            if not counts[y, x]:
                continue
            for c in range(3):
                a, b = (image[c, y - 5 : y + 6, x - 5 : x + 6] for image in (predicted, target))
                mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
                var_a, var_b = (
                    (weight * (a - mean_a) ** 2).sum(),
                    (weight * (b - mean_b) ** 2).sum(),
                )
                covariance = (weight * (a - mean_a) * (b - mean_b)).sum()
                scores.append(
                    (2 * mean_a * mean_b + 1e-4)
                    * (2 * covariance + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )
    return float(np.mean(scores))


def test_ssim_agrees_with_a_plain_loop():
    predicted, target, _ = videos(t=2)
    unit = [((video + 1) / 2).double().numpy() for video in (predicted, target)]
    everywhere = np.ones((14, 17), dtype=bool)
    expected = [
        np.mean([slow_ssim(unit[0][i, j], unit[1][i, j], everywhere) for j in range(2)])
        for i in range(2)
    ]
    assert_close(
        ssim(predicted, target, value_range=IMAGES),
        torch.tensor(expected, dtype=torch.float32),
        rtol=1e-5,
        atol=0,
    )


def test_masked_ssim_reads_the_mask_at_the_window_centre():
    predicted, target, mask = videos(b=1, t=1)
    unit = [((video + 1) / 2).double().numpy()[0, 0] for video in (predicted, target)]
    expected = slow_ssim(*unit, mask[0, 0].numpy())
    assert ssim(predicted, target, mask, value_range=IMAGES).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_ssim_is_one_for_equal_clips_symmetric_and_falls_with_noise():
    predicted, target, _ = videos()
    assert_close(ssim(target, target, value_range=IMAGES), torch.ones(2))
    assert_close(
        ssim(predicted, target, value_range=IMAGES), ssim(target, predicted, value_range=IMAGES)
    )
    less = target + 0.3 * (predicted - target)
    assert (
        ssim(less, target, value_range=IMAGES) > ssim(predicted, target, value_range=IMAGES)
    ).all()


def test_lpips_averages_the_frames_of_each_clip():
    def network(images: Tensor, others: Tensor) -> Tensor:
        return (images - others).abs().mean(dim=(1, 2, 3))

    class Distance(torch.nn.Module):
        forward = staticmethod(network)

    predicted, target, _ = videos()
    assert_close(
        lpips(Distance(), predicted, target, value_range=IMAGES),
        (predicted - target).abs().mean(dim=(1, 2, 3, 4)),
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_ranges_and_empty_masks_are_refused(metric):
    predicted, target, mask = videos()
    with pytest.raises(ValueError, match=r"expected \[-1, 1\]"):
        metric((predicted + 1) * 127.5, target, value_range=IMAGES)
    broken = predicted.clone()
    broken[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"expected \[-1, 1\]"):
        metric(broken, target, value_range=IMAGES)
    mask[1] = False
    with pytest.raises(ValueError, match="clip 1 of the batch"):
        metric(predicted, target, mask, value_range=IMAGES)


@pytest.mark.parametrize("metric", [frame_psnr, psnr, ssim, chroma_psnr, colour_kept, detail_psnr])
def test_the_same_pixels_have_the_same_score_in_every_range(metric):
    predicted, target, _ = videos()
    expected = metric(predicted, target, value_range=IMAGES)
    for low, high in ((0.0, 1.0), (0.0, 255.0)):
        pair = ((video + 1) / 2 * (high - low) + low for video in (predicted, target))
        found = metric(*pair, value_range=(low, high))
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="value_range"):
        metric(predicted, target)
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        metric(predicted, target, value_range=(0, 1))


def test_videos_in_0_1_that_are_said_to_be_in_minus_1_1_give_a_warning():
    """The mistake that it hides is 6.02 dB."""
    unit = [(video + 1) / 2 for video in videos()[:2]]
    right = psnr(*unit, value_range=(0, 1))
    with pytest.warns(UserWarning, match=r"say value_range=\(0, 1\)"):
        wrong = psnr(*unit, value_range=IMAGES)
    assert_close(wrong - right, torch.full((2,), 20 * math.log10(2)), rtol=1e-4, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psnr(*videos()[:2], value_range=IMAGES)
        psnr(unit[0] * 2 - 1, unit[1], value_range=IMAGES)  # one is enough


def test_integers_and_empty_ranges_are_refused():
    with pytest.raises(ValueError, match=r"torch\.uint8: expected floats in \[0, 255\]"):
        check_range(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), value_range=(0, 255))
    with pytest.raises(ValueError, match="the value of black, then of white"):
        check_range(torch.zeros(1, 3, 4, 4), value_range=(1, 1))


# --- depth


def test_depth_metrics_agree_with_plain_loops():
    predicted, target, valid = depths()
    for clip in range(2):
        pairs = [
            (p.item(), q.item())
            for p, q, ok in zip(
                predicted[clip].flatten(),
                target[clip].flatten(),
                valid[clip].flatten(),
                strict=True,
            )
            if ok
        ]
        relative = sum(abs(p - q) / q for p, q in pairs) / len(pairs)
        assert abs_rel(predicted_depth=predicted, target_depth=target, valid=valid)[
            clip
        ].item() == pytest.approx(relative, rel=1e-5)
        for n in (1, 2, 3):
            share = sum(max(p / q, q / p) < 1.25**n for p, q in pairs) / len(pairs)
            assert delta_accuracy(predicted_depth=predicted, target_depth=target, valid=valid, n=n)[
                clip
            ].item() == pytest.approx(share, rel=1e-5)


def test_invalid_pixels_do_not_count():
    predicted, target, valid = depths()
    expected = (
        abs_rel(predicted_depth=predicted, target_depth=target, valid=valid),
        delta_accuracy(predicted_depth=predicted, target_depth=target, valid=valid, n=2),
    )
    for junk in (0.0, -1.0, math.nan, math.inf):
        p, q = torch.where(valid, predicted, junk), torch.where(valid, target, junk)
        assert_close(abs_rel(predicted_depth=p, target_depth=q, valid=valid), expected[0])
        assert_close(
            delta_accuracy(predicted_depth=p, target_depth=q, valid=valid, n=2), expected[1]
        )
        assert torch.isfinite(
            align_scale_shift(predicted_inverse=p, target_inverse=q, valid=valid)[valid]
        ).all()


def test_depth_without_valid_or_positive_pixels_is_refused():
    predicted, target, valid = depths()
    with pytest.raises(ValueError, match="clip 0 of the batch: no pixel"):
        abs_rel(predicted_depth=predicted, target_depth=target, valid=torch.zeros_like(valid))
    for wrong in (0.0, -2.0, math.nan):
        with pytest.raises(ValueError, match="target depth is not above 0 at"):
            delta_accuracy(
                predicted_depth=predicted,
                target_depth=torch.where(valid, wrong, target),
                valid=valid,
            )
        with pytest.raises(ValueError, match="predicted depth is not above 0 at"):
            abs_rel(
                predicted_depth=torch.where(valid, wrong, predicted),
                target_depth=target,
                valid=valid,
            )


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.05, 20), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_aligned_abs_rel_does_not_change_under_scale_and_shift(
    scale: float, shift: float, seed: int
):
    predicted, target, valid = depths(seed)
    inverse, true_inverse = 1 / predicted, 1 / target

    def score(x: Tensor) -> Tensor:
        aligned = align_scale_shift(predicted_inverse=x, target_inverse=true_inverse, valid=valid)
        depth = depth_from_inverse(aligned, farthest=10.0)
        return abs_rel(predicted_depth=depth, target_depth=target, valid=valid)

    assert_close(score(scale * inverse + shift), score(inverse), rtol=2e-3, atol=1e-4)


def test_alignment_is_least_squares_over_the_whole_clip():
    predicted, target, valid = depths()
    aligned = align_scale_shift(predicted_inverse=predicted, target_inverse=target, valid=valid)
    for clip in range(2):
        ok = valid[clip].numpy()
        x, y = predicted[clip].double().numpy(), target[clip].double().numpy()
        (scale, shift), *_ = np.linalg.lstsq(
            np.stack([x[ok], np.ones(ok.sum())], axis=1), y[ok], rcond=None
        )
        assert_close(
            aligned[clip].double(), torch.from_numpy(scale * x + shift), rtol=1e-4, atol=1e-5
        )


def test_alignment_recovers_an_exact_relation_and_handles_a_constant():
    _, target, valid = depths()
    assert_close(
        align_scale_shift(predicted_inverse=0.2 * target - 3, target_inverse=target, valid=valid),
        target,
        rtol=1e-4,
        atol=1e-4,
    )
    flat = align_scale_shift(
        predicted_inverse=torch.full_like(target, 7.0), target_inverse=target, valid=valid
    )
    for clip in range(2):
        assert_close(flat[clip], target[clip][valid[clip]].mean().expand_as(flat[clip]))


def test_depth_from_inverse_is_capped():
    inverse = torch.tensor([2.0, 0.5, 0.01, 0.0, -1.0]).view(1, 1, 1, 5)
    assert depth_from_inverse(inverse, farthest=10.0).flatten().tolist() == pytest.approx(
        [0.5, 2, 10, 10, 10]
    )


# --- tracks

SIZE = (128, 512)  # height, width: x shrinks by 2 and y grows by 2 on the way to 256 x 256


def tracks(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Predicted and true tracks (b t p 2), their visibility, and which entries count."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 6, 9, 2, generator=generator) * torch.tensor([512.0, 128.0])
    predicted = target + 6 * torch.randn(target.shape, generator=generator) * torch.tensor(
        [2.0, 0.5]
    )
    seen, true_seen = (torch.rand(2, 6, 9, generator=generator) < share for share in (0.6, 0.7))
    query = torch.randint(0, 5, (2, 9), generator=generator)
    return predicted, seen, target, true_seen, frames_after_query(query, 6)


def test_frames_after_query():
    assert frames_after_query(torch.tensor([[0, 2]]), 4)[0].T.tolist() == [
        [False, True, True, True],
        [False, False, False, True],
    ]


def test_track_metrics_agree_with_plain_loops():
    predicted, seen, target, true_seen, counted = tracks()
    for clip in range(2):
        jaccards, shares, right = [], [], []
        for threshold in TAPVID_THRESHOLDS:
            hits = misses = false_positives = n_seen = n_near = 0
            for t in range(6):
                for p in range(9):
                    if not counted[clip, t, p]:
                        continue
                    dx, dy = (predicted[clip, t, p] - target[clip, t, p]).tolist()
                    near = math.hypot(dx * 256 / 512, dy * 256 / 128) < threshold
                    is_seen, said_seen = bool(true_seen[clip, t, p]), bool(seen[clip, t, p])
                    right.append(is_seen == said_seen)
                    n_seen += is_seen
                    n_near += is_seen and near
                    hits += is_seen and said_seen and near
                    misses += is_seen and not (said_seen and near)
                    false_positives += said_seen and not (is_seen and near)
            jaccards.append(hits / (hits + misses + false_positives))
            shares.append(n_near / n_seen)
        jaccard = average_jaccard(predicted, seen, target, true_seen, counted, SIZE)[clip].item()
        assert jaccard == pytest.approx(sum(jaccards) / 5)
        assert 0 < jaccard < 1
        accuracy = position_accuracy(predicted, target, true_seen, counted, SIZE)[clip].item()
        assert accuracy == pytest.approx(sum(shares) / 5)
        assert occlusion_accuracy(seen, true_seen, counted)[clip].item() == pytest.approx(
            sum(right) / len(right)
        )


def test_perfect_tracks_score_one_and_uncounted_entries_do_not_matter():
    predicted, seen, target, true_seen, counted = tracks()
    ones = torch.ones(2)
    assert_close(average_jaccard(target, true_seen, target, true_seen, counted, SIZE), ones)
    assert_close(position_accuracy(target, target, true_seen, counted, SIZE), ones)
    assert_close(occlusion_accuracy(true_seen, true_seen, counted), ones)
    moved = torch.where(counted[..., None], predicted, 1e4)
    flipped = torch.where(counted, seen, ~seen)
    assert_close(
        average_jaccard(moved, flipped, target, true_seen, counted, SIZE),
        average_jaccard(predicted, seen, target, true_seen, counted, SIZE),
    )


def test_jaccard_never_exceeds_position_accuracy():
    for seed in range(5):
        predicted, seen, target, true_seen, counted = tracks(seed)
        jaccard = average_jaccard(predicted, seen, target, true_seen, counted, SIZE)
        assert (jaccard <= position_accuracy(predicted, target, true_seen, counted, SIZE)).all()


def test_tracks_without_visible_points_are_refused():
    predicted, seen, target, true_seen, counted = tracks()
    never = torch.zeros_like(seen)
    with pytest.raises(ValueError, match="clip 0 of the batch: no point is truly visible"):
        position_accuracy(predicted, target, never, counted, SIZE)
    with pytest.raises(ValueError, match="no point is counted"):
        occlusion_accuracy(seen, true_seen, never)
    with pytest.raises(ValueError, match="visible or predicted visible"):
        average_jaccard(predicted, never, target, never, counted, SIZE)


def test_tracks_in_shares_of_the_frame_are_refused():
    shares = torch.rand(1, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(1, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="pixels of frames of 96 x 64 px, not shares"):
        position_accuracy(shares, shares, seen, seen, (64, 96))
    with pytest.raises(ValueError, match="not shares"):
        average_jaccard(shares, seen, shares, seen, seen, (64, 96))
    pixels = shares * torch.tensor([96.0, 64.0])
    assert position_accuracy(pixels, pixels, seen, seen, (64, 96)).item() == 1
