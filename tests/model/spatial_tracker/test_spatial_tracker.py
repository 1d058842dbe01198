"""Laws of the network: batches, order, windows, still and translated clips, memory, errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import repeat
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tracker_cases import SMALL, clip, queries, small_tracker

from model.spatial_tracker import correlation, model, updater
from model.spatial_tracker.codes import position_code, sine_table
from model.spatial_tracker.config import SpatialTrackerConfig, published, tiny
from model.spatial_tracker.model import SpatialTracker, TrackerOutput, dealt_flags, track_mask
from model.spatial_tracker.triplane import Planes
from model.training.checkpoint import load_model, save_model

PX = 1e-3  # rounding, after two iterations of a network whose points move by pixels


def run(
    network: SpatialTracker, video: Tensor, depth: Tensor, frames: Tensor, points: Tensor
) -> TrackerOutput:
    with torch.no_grad():
        return network(video, depth, frames, points)


def assert_same(made: TrackerOutput, expected: TrackerOutput) -> None:
    assert torch.equal(made.covered, expected.covered)
    assert_close(made.tracks, expected.tracks, atol=PX, rtol=0)
    assert_close(made.visibility, expected.visibility, atol=PX, rtol=0)


def test_points_do_move():
    """Otherwise the laws below would be trivial."""
    (video, depth), (frames, points) = clip(), queries(last_frame=7)
    output = run(small_tracker(), video, depth, frames, points)
    moved = (output.tracks - points[:, None]).abs()[:, output.covered]
    assert moved[..., :2].mean() > 0.2 and moved[..., 2].mean() > 0.02
    assert output.visibility.std() > 0.02


@pytest.mark.parametrize("own_flags", [True, False])
def test_clips_in_a_batch_are_tracked_independently(own_flags: bool):
    network = small_tracker(config=replace(SMALL, own_flags=own_flags))
    (video, depth), (frames, points) = clip(b=3), queries(b=3, last_frame=7)
    depth = depth * torch.tensor([1.0, 10.0, 0.3]).view(3, 1, 1, 1)
    points = (
        points
        * torch.stack([torch.ones(3), torch.ones(3), torch.tensor([1.0, 10.0, 0.3])], dim=-1)[
            :, None
        ]
    )
    together = run(network, video, depth, frames, points)
    for i in range(3):
        alone = run(network, video[i : i + 1], depth[i : i + 1], frames, points[i : i + 1])
        assert_close(together.tracks[i : i + 1], alone.tracks, atol=PX, rtol=0)
        assert_close(together.visibility[i : i + 1], alone.visibility, atol=PX, rtol=0)
    assert (together.tracks[0] - together.tracks[1]).abs().max() > 1


def test_the_order_of_queries_does_not_matter():
    (video, depth), (frames, points) = clip(), queries(last_frame=7)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))
    network = small_tracker()
    made = run(network, video, depth, frames[order], points[:, order])
    expected = run(network, video, depth, frames, points)
    back = torch.argsort(order)
    assert torch.equal(made.covered[:, back], expected.covered)
    assert_close(made.tracks[:, :, back], expected.tracks, atol=PX, rtol=0)
    assert_close(made.visibility[:, :, back], expected.visibility, atol=PX, rtol=0)


def test_the_order_of_queries_matters_to_published_flags():
    """They are dealt out in the order of the queries, unlike a point's own flags."""
    (video, depth), (frames, points) = clip(), queries(last_frame=7)
    order = torch.arange(len(frames)).flip(0)
    network = small_tracker(config=replace(SMALL, own_flags=False))
    made = run(network, video, depth, frames[order], points[:, order])
    expected = run(network, video, depth, frames, points)
    assert (made.tracks[:, :, order] - expected.tracks).abs().max() > 10 * PX


def test_published_flags_are_dealt_from_one_row():
    """Two points in four frames: masks 0 1 2 .. by point, then visibilities 10 11 .., in pairs."""
    mask = torch.arange(8.0).view(2, 4).T
    flags = dealt_flags(mask, (10 + mask)[None])[0]
    assert flags[:, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert flags[:, 1].tolist() == [[10, 11], [12, 13], [14, 15], [16, 17]]


def test_the_scale_of_depth_does_not_matter():
    (video, depth), (frames, points) = clip(), queries()
    network = small_tracker()
    expected = run(network, video, depth, frames, points)
    made = run(network, video, 50 * depth, frames, points * torch.tensor([1, 1, 50]))
    assert_close(made.tracks / torch.tensor([1, 1, 50]), expected.tracks, atol=PX, rtol=0)


def test_windows_overlap_by_half_and_later_ones_count():
    (video, depth), (frames, points) = clip(t=10), queries(p=3)
    frames[:] = torch.tensor([7, 0, 4])
    output = run(small_tracker(), video, depth, frames, points)
    assert [window.start for window in output.windows] == [0, 3, 6]
    assert [window.points for window in output.windows] == [[1, 2], [1, 2, 0], [1, 2, 0]]
    assert output.covered[:, 0].tolist() == [False] * 3 + [True] * 7
    assert output.covered[:, 1:].all()
    last = output.windows[-1]
    assert_close(output.tracks[:, 6:, [1, 2, 0]], last.tracks[-1][:, :4])
    assert_close(output.tracks[:, 3:6, [1, 2, 0]], output.windows[1].tracks[-1][:, :3])
    assert last.tracks.shape == (2, 1, 6, 3, 3)


def test_windows_before_the_first_query_are_skipped():
    (video, depth), (frames, points) = clip(t=12), queries(p=4)
    output = run(small_tracker(), video, depth, frames + 8, points)
    assert [window.start for window in output.windows] == [3, 6]
    assert not output.covered[:3].any() and output.covered[3:].all()


def test_masks_begin_with_the_query_and_exclude_finished_and_missing_frames():
    # Frames 3 .. 8, the last after the clip's end
    mask = track_mask(3, 6, 8, torch.tensor([0, 4, 8]), n_old=2)
    assert mask.T.tolist() == [
        [False, False, False, True, True, False],
        [False, False, False, True, True, False],
        [False] * 6,
    ]
    assert track_mask(0, 6, 8, torch.tensor([0, 4]), n_old=0).T.tolist() == [
        [True] * 6,
        [False] * 4 + [True] * 2,
    ]


class WithoutFrameCode(SpatialTracker):
    """Tokens have no code of their frame in the window."""

    def codes(self, cells: Tensor, planes: Planes) -> Tensor:
        size = (planes.xy.shape[-2], planes.xy.shape[-1])
        return position_code(cells[:, 0, :, :2], size, self.config.token)[:, None].expand(
            -1, cells.shape[1], -1, -1
        )


def test_a_still_clip_gives_still_tracks_without_the_frame_code():
    """Only the frame code distinguishes the frames of a still clip."""
    (video, depth), (frames, points) = clip(t=1), queries()
    video, depth = (repeat(x, "b 1 ... -> b t ...", t=6) for x in (video, depth))
    still = run(small_tracker(WithoutFrameCode), video, depth, frames, points)
    assert_close(still.tracks, still.tracks[:, :1].expand_as(still.tracks), atol=PX, rtol=0)
    assert_close(
        still.visibility, still.visibility[:, :1].expand_as(still.visibility), atol=PX, rtol=0
    )
    assert (still.tracks[:, 0] - points)[..., :2].abs().mean() > 0.1  # they moved, together
    moving, _ = clip(t=6)
    seen = run(small_tracker(WithoutFrameCode), moving, depth, frames, points)
    assert (seen.tracks - seen.tracks[:, :1])[..., :2].abs().max() > 100 * PX


class WithoutPositionCode(SpatialTracker):
    """Tokens have no code of their first position."""

    def codes(self, cells: Tensor, planes: Planes) -> Tensor:
        return sine_table(cells.shape[1], self.config.token, cells)[:, None].expand(
            len(cells), -1, 1, -1
        )


def test_translated_planes_translate_the_tracks_without_the_position_code():
    """Refinement, by a cell of the coarsest correlation level, away from borders.

    The whole network is not exactly equivariant: its encoder resizes stages with corners aligned,
    by 63/31 and the like instead of 2, and the Fourier and position codes are relative to the
    picture. So the planes are translated here, and the position code is left out.
    """
    generator = torch.Generator().manual_seed(0)
    s, c, side, step = SMALL.window, SMALL.latent, 96, 8
    planes = Planes(*(torch.randn(1, s, c, side, side, generator=generator) for _ in range(3)))
    x, y = step, 2 * step
    moved = Planes(planes.xy.roll((y, x), (3, 4)), planes.yz.roll(y, 4), planes.xz.roll(x, 4))
    cells = 36 + 8 * torch.rand(1, 1, 10, 3, generator=generator).expand(1, s, 10, 3)
    start = {
        "features": [torch.randn(1, 10, c, generator=generator) for _ in range(3)],
        "mask": torch.ones(s, 10),
        "visibility": torch.full((1, s, 10), 10.0),
        "support": torch.full((1, 1, SMALL.hidden), 0.1),
    }
    network = small_tracker(WithoutPositionCode)
    shift = torch.tensor([x, y, 0])
    with torch.no_grad():
        before = network.refine(planes, cells, **start, iterations=3)
        after = network.refine(moved, cells + shift, **start, iterations=3)
        unmoved = network.refine(planes, cells + shift, **start, iterations=3)
    assert (before.cells[-1] - cells).abs().mean() > 0.05
    assert_close(after.cells[-1] - shift, before.cells[-1], atol=PX / 4, rtol=0)
    assert_close(after.visibility, before.visibility, atol=PX, rtol=0)
    assert (unmoved.cells[-1] - shift - before.cells[-1]).abs().max() > 0.1


def test_a_window_of_another_length_is_refused():
    planes = Planes(*(torch.zeros(1, 4, SMALL.latent, 16, 16) for _ in range(3)))
    zeros = torch.zeros(1, 4, 2, 3)
    with pytest.raises(
        ValueError,
        match=r"window of 4 frames: the network is built for 6; .*replace\(config, window=4",
    ):
        small_tracker().refine(
            planes,
            zeros,
            [torch.zeros(1, 2, SMALL.latent)] * 3,
            torch.ones(4, 2),
            zeros[..., 0],
            torch.zeros(1, 1, SMALL.hidden),
            iterations=1,
        )


def test_a_clip_of_half_a_window_is_refused():
    (video, depth), (frames, points) = clip(t=3), queries()
    with pytest.raises(
        ValueError, match="clip of 3 frames: more than half a window of 6 is needed"
    ):
        small_tracker()(video, depth, frames, points)


@pytest.mark.parametrize("n_frames", [4, 5])
def test_a_clip_shorter_than_a_window_is_padded_with_its_last_frame(
    n_frames: int, monkeypatch: pytest.MonkeyPatch
):
    (video, depth), (frames, points) = clip(t=n_frames), queries()
    made = run(small_tracker(), video, depth, frames, points)
    assert len(made.windows) == 1 and made.tracks.shape[1] == n_frames and made.covered.all()
    by_hand = torch.tensor([0, 1, 2, 3, n_frames - 1, n_frames - 1])

    def without_filling(
        start: int, window: int, _filled: int, query_frames: Tensor, n_old: int
    ) -> Tensor:
        return track_mask(start, window, n_frames, query_frames, n_old)

    monkeypatch.setattr(model, "track_mask", without_filling)
    filled = run(small_tracker(), video[:, by_hand], depth[:, by_hand], frames, points)
    assert_close(made.tracks, filled.tracks[:, :n_frames], atol=PX, rtol=0)


def test_sizes_without_whole_cells_are_refused():
    frames, points = queries()
    with pytest.raises(
        ValueError, match="picture of 64 x 66 px: expected multiples of 4, at least 64 px"
    ):
        small_tracker()(torch.zeros(1, 6, 3, 64, 66), torch.ones(1, 6, 64, 66), frames, points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "window=7: expected an even number of frames"),
        ({"heads": 7}, "hidden=384 is not a multiple of heads=7"),
        ({"motion": 131}, "position code needs a multiple of 4"),
        ({"iterations": 0}, "iterations=0: expected 1 or more"),
        ({"working_height": 60}, "picture of 60 x 512 px"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(changes: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        replace(published(), **changes)


class Largest(TorchDispatchMode):
    """The number of elements in the largest result of an operation."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.elements = max(
            [
                self.elements,
                *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)),
            ]
        )
        return made


def largest_tensor(p: int) -> int:
    (video, depth), (frames, points) = clip(t=6), queries(p=p)
    network, largest = small_tracker(), Largest()
    # This kernel keeps all scores
    with (
        largest,
        sdpa_kernel(SDPBackend.MATH),
    ):
        run(network, video, depth, frames, points)
    return largest.elements


def test_no_tensor_grows_with_the_square_of_points_and_frames(monkeypatch: pytest.MonkeyPatch):
    bound, heads, s = 200_000, SMALL.support_heads, SMALL.window
    # Below the bound, so at once
    assert largest_tensor(p=100) == heads * (100 * s) ** 2
    monkeypatch.setattr(updater, "MAX_SCORES", bound)
    monkeypatch.setattr(correlation, "MAX_PRODUCTS", bound)
    for p in (100, 200, 400):
        tokens = p * s * SMALL.token  # wider than any layer
        assert largest_tensor(p) <= max(bound, tokens)


def test_tiny_is_small_and_a_saved_network_comes_back(tmp_path: Path):
    assert (
        1_500_000
        < sum(parameter.numel() for parameter in SpatialTracker(tiny()).parameters())
        < 5_000_000
    )
    network = small_tracker()
    save_model(tmp_path / "tracker.safetensors", network, SMALL)
    loaded, config = load_model(
        tmp_path / "tracker.safetensors", SpatialTracker, SpatialTrackerConfig
    )
    assert config == SMALL
    (video, depth), (frames, points) = clip(t=6), queries()
    made, expected = (
        run(loaded, video, depth, frames, points),
        run(network, video, depth, frames, points),
    )
    assert torch.equal(made.tracks, expected.tracks)


def test_an_untrained_network_does_not_move_points():
    torch.manual_seed(0)
    (video, depth), (frames, points) = clip(), queries()
    output = run(SpatialTracker(SMALL), video, depth, frames, points)
    assert_close(output.tracks, points[:, None].expand_as(output.tracks), atol=1e-4, rtol=0)


def test_gradients_reach_every_parameter():
    network = small_tracker().train()
    (video, depth), (frames, points) = clip(t=9), queries()
    output = network(video, depth, frames, points)
    assert not output.tracks.requires_grad
    first, second = output.windows[0].tracks
    (first.square().sum() + second.square().sum() + output.windows[1].visibility.sum()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without


def test_gradients_of_an_iteration_stop_at_its_start():
    """The head's bias for x has a gradient of 1 cell per position, that of the last iteration."""
    network = small_tracker()
    (video, depth), (frames, points) = clip(t=6), queries(p=5)
    tracks = network(video, depth, frames, points).windows[0].tracks
    bias = network.get_parameter("updateformer.flow_head.4.bias")
    for positions in tracks:
        (gradient,) = torch.autograd.grad(positions[..., 0].sum(), bias, retain_graph=True)
        assert gradient[0].item() == pytest.approx(4 * 6 * 5)
