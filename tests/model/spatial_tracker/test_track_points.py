"""The predictor: queries, depth, sizes, flags, the reversed clip, and what is refused."""

from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from einops import rearrange
from tracker_cases import clip, first_frame_queries, small_tracker

from model.spatial_tracker import predictor
from model.spatial_tracker.predictor import (
    Tracks,
    depth_from_inverse,
    full_float32,
    support_points,
    track_points,
)

PX = 1e-3


def arrays(b: int = 1, t: int = 9, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    video, depth = clip(b=b, t=t, side=side)
    return rearrange(video, "b t c h w -> b t h w c").to(torch.uint8).numpy(), depth.numpy()


def test_support_points_keep_a_margin():
    points = support_points(6, 384, 512)
    assert points.shape == (36, 3) and not points[:, 0].any()
    assert points[0].tolist() == [0, 8, 8] and points[-1].tolist() == [0, 504, 376]
    assert np.allclose(np.diff(points[:6, 1]), 99.2)


def test_inverse_depth_is_inverted_with_a_floor():
    inverse = np.array([[[[8.0, 4.0, 0.1, 0.0]]], [[[1.0, 0.5, 0.2, 0.1]]]], dtype=np.float32)
    depth = depth_from_inverse(inverse, floor=0.125)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth[:, 0, 0], [[1, 2, 8, 8], [1, 2, 5, 8]], rtol=1e-6)
    np.testing.assert_allclose(depth_from_inverse(300 * inverse, floor=0.125), depth, rtol=1e-6)


def test_inverse_depth_without_a_nearest_point_is_refused():
    inverse = np.ones((2, 1, 2, 2), dtype=np.float32)
    inverse[1] = 0
    with pytest.raises(ValueError, match="clip 1 of 2: inverse depth is nowhere above 0"):
        depth_from_inverse(inverse, floor=0.1)
    inverse[1, 0, 0, 0] = np.nan
    with pytest.raises(
        ValueError, match="clip 1 of 2: inverse depth is NaN or infinite in 1 pixels"
    ):
        depth_from_inverse(inverse, floor=0.1)
    with pytest.raises(ValueError, match=r"floor=0\.0: expected a share"):
        depth_from_inverse(inverse, floor=0.0)


def test_tracks_start_at_their_queries_in_the_clips_units():
    frames, depth = arrays(b=2, side=96)  # resized to 64 x 64
    queries = np.array([[0, 10.5, 20], [3, 80, 95.5], [8, -0.5, 50]], dtype=np.float32)
    made = track_points(small_tracker(), frames, 1000 * depth, queries)
    assert made.tracks.shape == (2, 9, 3, 2) and made.tracks.dtype == np.float32
    assert made.depth.shape == made.visibility.shape == made.visible.shape == (2, 9, 3)
    for p, (frame, x, y) in enumerate(queries):
        np.testing.assert_allclose(made.tracks[:, int(frame), p], [[x, y]] * 2, atol=1e-4)
        assert made.visible[:, int(frame), p].all()
        assert (made.depth[:, int(frame), p] > 1000).all() and (
            made.depth[:, int(frame), p] < 3000
        ).all()
    # Resizing takes the nearest of 1.5 pixels per working pixel: the depth is one of those nearby
    around = 1000 * depth[:, 0, 18:24, 8:14]
    assert (around.min() <= made.depth[:, 0, 0]).all() and (
        made.depth[:, 0, 0] <= around.max()
    ).all()


def test_tracks_do_not_depend_on_the_batch_and_the_order_of_points():
    frames, depth = arrays(b=2)
    queries = first_frame_queries(3)
    network = small_tracker()
    together = track_points(network, frames, depth, queries)
    alone = track_points(network, frames[1:], depth[1:], queries)
    np.testing.assert_allclose(together.tracks[1:], alone.tracks, atol=PX)
    np.testing.assert_allclose(together.visibility[1:], alone.visibility, atol=PX)
    order = np.random.default_rng(0).permutation(9)
    permuted = track_points(network, frames, depth, queries[order])
    np.testing.assert_allclose(permuted.tracks, together.tracks[:, :, order], atol=PX)
    unsupported = track_points(network, frames, depth, queries, support_grid=0)
    assert np.abs(unsupported.tracks - together.tracks).max() > 10 * PX


def test_visible_is_a_threshold_on_the_probability():
    frames, depth = arrays()
    queries = first_frame_queries(4)
    network = small_tracker()
    made = track_points(network, frames, depth, queries)
    middle = float(np.median(made.visibility))
    made = track_points(network, frames, depth, queries, visible_above=middle)
    assert (made.visible[:, 1:] == (made.visibility[:, 1:] > middle)).all()
    assert made.visible[:, 0].all() and 0.2 < made.visible[:, 1:].mean() < 0.8


def test_frames_before_late_queries_are_not_covered_unless_tracked_backward():
    frames, depth = arrays(t=12)
    queries = np.array([[0, 30, 30], [8, 20, 40], [11, 40, 20]], dtype=np.float32)
    network = small_tracker()
    forward = track_points(network, frames, depth, queries)
    gaps = np.isnan(forward.tracks[..., 0])
    assert gaps.sum(axis=1).tolist() == [[0, 3, 6]]  # windows begin at 0, 3 and 6
    assert (np.isnan(forward.depth) == gaps).all()
    assert not forward.visibility[gaps].any() and not forward.visible[gaps].any()
    both = track_points(network, frames, depth, queries, backward=True)
    assert (both.tracks[~gaps] == forward.tracks[~gaps]).all()

    # The reversed clip by hand, the same support points in its last frame
    support = support_points(6, 64, 64)
    reversed_queries = np.concatenate([queries, support])
    reversed_queries[:, 0] = 11 - reversed_queries[:, 0]
    back = track_points(
        network, frames[:, ::-1].copy(), depth[:, ::-1].copy(), reversed_queries, support_grid=0
    )
    filled = Tracks(
        tracks=back.tracks[:, ::-1, :3],
        depth=back.depth[:, ::-1, :3],
        visibility=back.visibility[:, ::-1, :3],
        visible=back.visible[:, ::-1, :3],
    )
    for name in ("tracks", "depth", "visibility", "visible"):
        np.testing.assert_allclose(
            getattr(both, name)[gaps], getattr(filled, name)[gaps], atol=1e-5
        )


@pytest.mark.parametrize(("precision", "most"), [("float16", 0.02), ("bfloat16", 0.2)])
def test_attention_in_half_precision_changes_little(precision, most: float):
    frames, depth = arrays()
    queries = first_frame_queries(3)
    full = track_points(small_tracker(), frames, depth, queries)
    half = track_points(small_tracker(), frames, depth, queries, precision=precision)
    assert 0 < np.abs(half.tracks - full.tracks).max() < most


@pytest.mark.parametrize(
    ("query", "bad"),
    [
        ([9, 5, 5], "frame"),
        ([0.5, 5, 5], "frame"),
        ([0, 64, 5], "x"),
        ([0, 5, -1], "y"),
        ([0, np.nan, 5], "x"),
    ],
)
def test_queries_outside_the_clip_are_refused(query: list[float], bad: str):
    frames, depth = arrays()
    queries = np.array([[0, 5, 5], query], dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"query 1 \(frame, x, y\) = .*: expected a whole frame in \[0, 9\)"
    ):
        track_points(small_tracker(), frames, depth, queries)


def test_unusable_depth_is_refused():
    frames, depth = arrays(b=2)
    queries = first_frame_queries(2)
    network = small_tracker()
    cases = {
        "depth is NaN or infinite in 2 pixels": np.where(np.arange(64) < 2, np.nan, 1.0),
        "depth is nowhere above 0.01": np.full(64, 0.005),
        "depth is 2 everywhere": np.where(np.arange(64) < 9, 0.0, 2.0),
    }
    for message, row in cases.items():
        depth[1] = 1.0 + np.arange(64) / 64
        depth[1, 0, 3] = row
        if "NaN" not in message:
            depth[1] = row
        with pytest.raises(ValueError, match=f"clip 1 of 2: {message}"):
            track_points(network, frames, depth.astype(np.float32), queries)


@pytest.fixture
def convolutions() -> Iterator[Any]:
    """CUDA's setting for convolutions, which exists without a device, too; restored afterwards."""
    setting = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = setting.fp32_precision
    yield setting
    setting.fp32_precision = before


@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_tf32_is_off_on_cuda_and_restored_afterwards(convolutions: Any, before: str):
    convolutions.fp32_precision = before
    with full_float32(torch.device("cuda")):
        assert convolutions.fp32_precision == "ieee"
    with pytest.raises(KeyError), full_float32(torch.device("cuda", 1)):
        raise KeyError
    assert convolutions.fp32_precision == before
    with full_float32(torch.device("cpu")):
        assert convolutions.fp32_precision == before


def test_every_forward_runs_in_full_float32(convolutions: Any, monkeypatch: pytest.MonkeyPatch):
    frames, depth = arrays()
    network, inside = small_tracker(), []
    # As if on a GPU
    monkeypatch.setattr(
        predictor, "full_float32", lambda device: full_float32(torch.device("cuda"))
    )
    network.register_forward_pre_hook(lambda *_: inside.append(convolutions.fp32_precision))
    convolutions.fp32_precision = "tf32"
    track_points(network, frames, depth, first_frame_queries(2), backward=True)
    assert inside == ["ieee", "ieee"]


def test_another_precision_is_refused(monkeypatch: pytest.MonkeyPatch):
    # Annotations are checked in tests only
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    frames, depth = arrays()
    for precision in ("fp16", "float64", "nn"):  # torch has the last two
        with pytest.raises(
            ValueError, match=f"precision='{precision}': expected one of float32, float16, bfloat16"
        ):
            track_points(
                small_tracker(), frames, depth, first_frame_queries(2), precision=precision
            )  # type: ignore[arg-type]


def test_clips_of_another_length_or_shape_are_refused(monkeypatch: pytest.MonkeyPatch):
    # Annotations are checked in tests only
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    frames, depth = arrays()
    queries = first_frame_queries(2)
    with pytest.raises(ValueError, match="clip of 3 frames: more than half a window of 6"):
        track_points(small_tracker(), frames[:, :3], depth[:, :3], queries)
    with pytest.raises(
        ValueError, match=r"depth of shape \(1, 9, 32, 64\), frames \(1, 9, 64, 64\): expected one"
    ):
        track_points(small_tracker(), frames, depth[:, :, :32].copy(), queries)
