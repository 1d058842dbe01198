"""The network and its predictor against the published implementation's outputs, same weights."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_weights import load_fixture, with_golden_weights
from torch import Tensor, nn

from model.spatial_tracker.config import published
from model.spatial_tracker.model import SpatialTracker, TrackerOutput
from model.spatial_tracker.predictor import Precision, Tracks, support_points, track_points

CHANGES = {  # without these, refinement amplifies rounding
    "updateformer.flow_head.4.weight": lambda value: 0.02 * value,
    "updateformer.flow_head.4.bias": lambda value: 0.02 * value,
    "zeroMLPflow.weight": lambda value: 0.1 * value,
    "vis_predictor.0.weight": lambda value: 0.2 * value,
}
# The reference sorts queries by frame with an unstable sort, and the order of points decides their
# flags (`model.dealt_flags`). These are its orders, which depend on vector instructions.
# fmt: off
ORDER = [
    44, 26, 28, 29, 31, 32, 34, 35, 37, 38, 40, 41, 43, 1, 46, 47, 49, 50, 52, 53, 55, 56, 58,
    59, 61, 62, 5, 11, 25, 13, 14, 10, 9, 16, 4, 17, 8, 19, 20, 2, 7, 22, 23, 36, 24, 6, 15, 3,
    54, 0, 21, 51, 12, 48, 42, 63, 45, 39, 33, 30, 57, 18, 60, 27,
]
ORDER_WITH_SUPPORT = [
    65, 76, 75, 74, 73, 72, 71, 70, 69, 68, 67, 66, 77, 64, 62, 61, 59, 58, 56, 55, 53, 52, 49,
    47, 88, 99, 98, 97, 96, 95, 94, 93, 92, 91, 90, 89, 50, 87, 86, 85, 84, 83, 82, 81, 80, 79,
    78, 22, 7, 31, 8, 29, 28, 9, 26, 25, 23, 32, 20, 19, 10, 17, 16, 14, 13, 11, 35, 46, 1, 44,
    43, 2, 41, 40, 4, 5, 38, 37, 34, 24, 36, 6, 3, 15, 54, 0, 21, 51, 48, 12, 63, 42, 33, 39,
    45, 30, 18, 27, 60, 57,
]
# fmt: on


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_fixture("spatracker_parity.npz")


@pytest.fixture(scope="module")
def weights(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = SpatialTracker(published())
    return with_golden_weights(network.to_empty(device="cpu"), CHANGES).state_dict()


def network_with(weights: dict[str, Tensor], **changes: int) -> SpatialTracker:
    with torch.device("meta"):
        network = SpatialTracker(replace(published(), **changes))
    network.load_state_dict(weights, assign=True)
    return network.eval()


def in_order(frames: np.ndarray, order: list[int]) -> np.ndarray:
    """A permutation of each frame's points after which a stable sort by frame gives this order."""
    index = np.empty(len(order), dtype=int)
    index[np.argsort(frames, kind="stable")] = order
    assert (frames[index] == frames).all()
    return index


def run(network: SpatialTracker, golden: dict[str, np.ndarray], iterations: int) -> TrackerOutput:
    """The network on the fixture's clip, with points in the fixture's order."""
    frames = torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2)[None].float()
    index = in_order(golden["queries_txyd"][:, 0], ORDER)
    queries = torch.from_numpy(golden["queries_txyd"][index])
    depth = torch.from_numpy(golden["depth"])[None]
    with torch.no_grad():
        output = network(
            frames, depth, queries[:, 0].long(), queries[None, :, 1:], iterations=iterations
        )
    back = np.argsort(index)
    return output._replace(
        tracks=output.tracks[:, :, back], visibility=output.visibility[:, :, back]
    )


def check(output: TrackerOutput, golden: dict[str, np.ndarray], case: str) -> None:
    error = np.abs(output.tracks[0].numpy() - golden[f"tracks_{case}_f32"])
    assert error[..., :2].max() < 3e-4
    assert error[..., :2].mean() < 3e-5
    assert error[..., 2].max() < 2e-5
    assert np.abs(output.visibility[0].sigmoid().numpy() - golden[f"vis_{case}_f32"]).max() < 3e-5


def statistics(
    network: nn.Module, names: list[str], run: Callable[[], None]
) -> dict[str, tuple[int, float, float]]:
    """Count, mean and std of modules' first outputs, or inputs if the name says so."""
    seen: dict[str, tuple[int, float, float]] = {}

    def note(name: str, value: Tensor) -> None:
        value = value.double()
        seen.setdefault(name, (value.numel(), value.mean().item(), value.std(correction=0).item()))

    def watch(name: str) -> None:
        module = network.get_submodule(name.removesuffix(" (its input)"))

        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            note(name, inputs[0])

        def after(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            note(name, output)

        if name.endswith(" (its input)"):
            module.register_forward_pre_hook(before)
        else:
            module.register_forward_hook(after)

    for name in names:
        watch(name)
    run()
    return seen


def test_one_iteration_and_its_inputs(golden: dict[str, np.ndarray], weights: dict[str, Tensor]):
    network = network_with(weights)
    names = golden["act_names"].tolist()
    seen = statistics(network, names, lambda: check(run(network, golden, 1), golden, "it1"))
    # The order of axes and the first values differ: tokens are (frame, point), (point, frame) there
    for name, shape, mean, std in zip(
        names, golden["act_shapes"], golden["act_mean"], golden["act_std"], strict=True
    ):
        assert seen[name][0] == np.prod([int(side) for side in shape.strip("()").split(",")]), name
        assert seen[name][1:] == pytest.approx((mean, std), abs=1e-5), name


def test_four_iterations(golden: dict[str, np.ndarray], weights: dict[str, Tensor]):
    check(run(network_with(weights), golden, 4), golden, "it4")


def test_four_iterations_over_windows_of_8(
    golden: dict[str, np.ndarray], weights: dict[str, Tensor]
):
    check(run(network_with(weights, window=8), golden, 4), golden, "it4_window8")


def predicted(
    golden: dict[str, np.ndarray], weights: dict[str, Tensor], device: str, precision: Precision
) -> Tracks:
    """The predictor's tracks, with points in the fixture's order."""
    height, width = golden["predictor_interp_shape"].tolist()
    network = network_with(weights, working_height=height, working_width=width).to(device)
    queries, (source_height, source_width) = golden["queries"], golden["frames"].shape[1:3]
    assert (golden["predictor_first_frame"] == queries[:, 0]).all()
    support = support_points(6, height, width) * np.array(
        [1, source_width / width, source_height / height], np.float32
    )
    # As in `track_points`, here to order them
    everything = np.concatenate([queries, support])
    index = in_order(everything[:, 0], ORDER_WITH_SUPPORT)
    clip, depth = golden["frames"][None], golden["depth"][None]
    made = track_points(
        network, clip, depth, everything[index], support_grid=0, precision=precision
    )
    own = np.argsort(index)[: len(queries)]
    return Tracks(
        tracks=made.tracks[:, :, own],
        depth=made.depth[:, :, own],
        visibility=made.visibility[:, :, own],
        visible=made.visible[:, :, own],
    )


def test_predictor(golden: dict[str, np.ndarray], weights: dict[str, Tensor]):
    made = predicted(golden, weights, "cpu", "float32")
    error = np.abs(made.tracks[0] - golden["predictor_tracks_f32"][..., :2])
    assert error.max() < 6e-4
    assert error.mean() < 6e-5
    assert np.abs(made.depth[0] - golden["predictor_tracks_f32"][..., 2]).max() < 2e-5
    assert (made.visible[0] != golden["predictor_visible"]).sum() <= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "highest", "mean"),
    [("float32", 6e-4, 6e-5), ("float16", 3.4e-3, 3.2e-4), ("bfloat16", 2.8e-2, 2.6e-3)],
)
def test_predictor_on_a_gpu(
    golden: dict[str, np.ndarray],
    weights: dict[str, Tensor],
    precision: Precision,
    highest: float,
    mean: float,
    other_flags: int,
):
    """Half precision may differ twice as much as on a CPU; TF32 is on, and must not be used."""
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    made = predicted(golden, weights, "cuda", precision)
    error = np.abs(made.tracks[0] - golden["predictor_tracks_f32"][..., :2])
    assert error.max() < highest and error.mean() < mean, (error.max(), error.mean())
    assert (made.visible[0] != golden["predictor_visible"]).sum() <= other_flags
