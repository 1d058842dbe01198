"""The published vits against its authors' implementation, with the same weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from vda_small import reference_network, references

from model.video_depth.config import MAX_FRAMES, vits
from model.video_depth.model import VideoDepth
from model.video_depth.video import estimate_depth, network_size, normalised

MAX, MEAN = 2e-4, 2e-5


def assert_near(depth: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(depth - expected)
    assert error.max() <= MAX and error.mean() <= MEAN, (error.max(), error.mean())


def as_input(frames: np.ndarray) -> Tensor:
    return normalised(torch.from_numpy(frames[None]), frames.shape[1:3])


@contextmanager
def watched(network: VideoDepth, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """A dict that a forward pass fills with the outputs of these modules, like the references'.

    Outputs are not copied: an in-place ReLU, as after `output_conv2.0`, changes both alike.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, inputs: tuple, output: Tensor) -> None:
            over_time = "motion_modules" in name
            seen[name] = (
                rearrange(output, "(b t) c h w -> b c t h w", t=inputs[1]) if over_time else output
            )

        return hook

    def keep_taps(_module: nn.Module, _inputs: tuple, output: list[Tensor]) -> None:
        seen.update({f"feature_{i}_patch_tokens": tap for i, tap in enumerate(output)})

    def keep_tokens(_module: nn.Module, inputs: tuple) -> None:
        seen["tokens_after_pos_embed"] = inputs[0]

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in names if name in modules]
    handles.append(modules["pretrained"].register_forward_hook(keep_taps))
    handles.append(modules["pretrained.blocks.0"].register_forward_pre_hook(keep_tokens))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def test_weights_are_the_references():
    golden, network = references(), reference_network()
    state = network.state_dict()
    for name, first in zip(
        golden["weight_check_keys"].tolist(), golden["weight_check_first4"], strict=True
    ):
        assert np.allclose(np.resize(state[name].flatten()[:4].numpy(), 4), first, rtol=1e-6), name
    total = sum(value.double().sum().item() for value in state.values())
    assert total == pytest.approx(golden["weight_check_total_sum"].item(), rel=1e-6)


def test_a_clip_and_intermediate_outputs():
    golden, network = references(), reference_network()
    names = golden["act_names"].tolist()
    with torch.no_grad(), watched(network, names) as seen:
        depth = network(as_input(golden["frames_a"]), frames_per_step=MAX_FRAMES)
    seen["depth"] = depth[0]
    assert_near(depth[0].numpy(), golden["depth_a"])
    keys = ("act_shapes", "act_mean", "act_std", "act_first8")
    for name, shape, mean, std, first in zip(names, *(golden[key] for key in keys), strict=True):
        values = seen[name].double()
        assert str(tuple(values.shape)) == shape, name
        assert values.mean().item() == pytest.approx(mean, abs=1e-5), name
        assert values.std(correction=0).item() == pytest.approx(std, abs=1e-5), name
        assert values.flatten()[:8].tolist() == pytest.approx(first.tolist(), abs=MAX), name


def test_one_frame():
    golden, network = references(), reference_network()
    with torch.no_grad():
        depth = network(as_input(golden["frames_a"][:1]))
    assert_near(depth[0, 0].numpy(), golden["depth_a_first_frame_alone"])


@pytest.mark.parametrize(("metric", "name"), [(False, "depth_b"), (True, "depth_b_metric")])
def test_the_whole_procedure(metric: bool, name: str):
    golden, network = references(), VideoDepth(vits(metric=metric))
    network.load_state_dict(reference_network().state_dict())
    depth = estimate_depth(
        network, golden["frames_b"][None], input_size=int(golden["input_size_b"])
    )
    assert_near(depth[0], golden[name])


def test_a_clip_shorter_than_a_window():
    golden, network = references(), reference_network()
    depth = estimate_depth(
        network, golden["frames_b"][None, :16], input_size=int(golden["input_size_b"])
    )
    assert_near(depth[0], golden["depth_b_first16"])


def test_preprocessing():
    golden = references()
    size = network_size(*golden["frames_b"].shape[1:3], int(golden["input_size_b"]))
    made = normalised(torch.from_numpy(golden["frames_b"][None, :1]), size)[0, 0]
    assert np.abs(made.numpy() - golden["net_input_b0"]).max() <= 5e-5


def test_sizes():
    golden = references()
    for height, width, input_size, *expected in golden["size_cases"].tolist():
        assert network_size(height, width, input_size) == tuple(expected), (
            height,
            width,
            input_size,
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "highest", "mean"),
    [("float32", 2e-4, 2e-5), ("float16", 4e-2, 6e-3), ("bfloat16", 3e-1, 5e-2)],
)
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, precision, highest: float, mean: float):
    """Mixed precision may differ twice as much as the published network's on a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    golden, network = references(), reference_network()
    frames = golden["frames_a"][None]
    depth = estimate_depth(
        copy.deepcopy(network).cuda(), frames, input_size=140, windows="direct", precision=precision
    )
    error = np.abs(depth[0] - golden["depth_a"])
    assert error.max() <= highest and error.mean() <= mean, (error.max(), error.mean())
