"""Predicted memory against that of tensors alive in a forward pass; operations against a count."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vda_small import SMALL

from model.video_depth.config import VideoDepthConfig, tiny, vitb, vitl, vits
from model.video_depth.cost import flops_per_frame, peak_bytes
from model.video_depth.model import VideoDepth


class LiveBytes(TorchDispatchMode):
    """The peak bytes of tensors that were alive after an operation, the given ones included."""

    def __init__(self, *given: Tensor):
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self.note(given)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.note(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def note(self, tensors) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {
            key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()
        }
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))


def measured(
    config: VideoDepthConfig, clips: tuple[int, int, int, int], frames_per_step: int
) -> int:
    b, t, height, width = clips
    network, frames = VideoDepth(config).eval(), torch.zeros(b, t, 3, height, width)
    with torch.no_grad(), LiveBytes(*network.state_dict().values(), frames) as live:
        network(frames, frames_per_step=frames_per_step)
    return live.peak


def predicted(
    config: VideoDepthConfig, clips: tuple[int, int, int, int], frames_per_step: int
) -> int:
    b, t, *size = clips
    return peak_bytes(
        config, size=tuple(size), n_clips=b, n_frames=t, frames_per_step=frames_per_step
    )


@pytest.mark.parametrize(
    ("config", "clips", "frames_per_step"),
    [
        (SMALL, (2, 8, 56, 70), 4),
        (tiny(), (1, 16, 98, 112), 4),
        (tiny(), (1, 16, 98, 112), 16),
        (tiny(), (2, 1, 140, 98), 1),
        (vits(), (1, 4, 84, 112), 2),
    ],
)
def test_memory_of_real_runs(config: VideoDepthConfig, clips, frames_per_step: int):
    assert predicted(config, clips, frames_per_step) == pytest.approx(
        measured(config, clips, frames_per_step), rel=0.02
    )


@pytest.mark.parametrize(
    ("config", "clips", "frames_per_step"),
    [
        (vits(), (1, 32, 518, 924), 4),
        (vitb(), (1, 1, 518, 518), 4),
        (vitl(), (1, 32, 518, 518), 4),
        (replace(SMALL, width=1024, n_heads=16), (1, 8, 280, 280), 1),  # the encoder is the largest
        # The motion module on the third tap
        (
            replace(SMALL, tap_widths=(32, 32, 512, 32)),
            (1, 8, 140, 140),
            1,
        ),
    ],
)
def test_memory_of_runs_on_fake_tensors(config: VideoDepthConfig, clips, frames_per_step: int):
    """Fake tensors have no contents: published sizes at full resolution take a second."""
    with FakeTensorMode():
        found = measured(config, clips, frames_per_step)
    assert predicted(config, clips, frames_per_step) == pytest.approx(found, rel=0.02)


def test_fewer_frames_per_step_and_mixed_precision_need_less():
    size = (518, 518)
    needs = [peak_bytes(vits(), size=size, frames_per_step=n) for n in (32, 16, 8)]
    assert needs == sorted(needs, reverse=True) and needs[0] > 1.8 * needs[-1]
    assert peak_bytes(vits(), size=size, precision="float16") < 0.8 * peak_bytes(vits(), size=size)
    with pytest.raises(ValueError, match="must be a multiple of 14"):
        peak_bytes(vits(), size=(100, 140))


def slow_flops(config: VideoDepthConfig, t: int, size: tuple[int, int]) -> float:
    """Twice the multiplications of all convolutions, linear layers and attention, by shapes."""
    total = 0

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += 2 * module.in_features * output.numel()
        elif isinstance(module, nn.ConvTranspose2d):
            total += 2 * inputs[0].numel() * module.out_channels * module.kernel_size[0] ** 2
        elif isinstance(module, nn.Conv2d):
            total += 2 * module.in_channels * module.kernel_size[0] ** 2 * output.numel()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal total
        total += 2 * 2 * q.numel() * k.shape[-2]  # scores, and the values they weigh
        return torch.empty_like(q)

    with torch.device("meta"):
        network = VideoDepth(config)
        for module in network.modules():
            module.register_forward_hook(count)
        with torch.no_grad(), patch("torch.nn.functional.scaled_dot_product_attention", attend):
            network(torch.empty(1, t, 3, *size))
    return total / t


@pytest.mark.parametrize(("config", "t"), [(tiny(), 16), (vits(), 2)])
def test_operations_agree_with_a_count_layer_by_layer(config: VideoDepthConfig, t: int):
    size = (140, 196)
    assert flops_per_frame(config, size=size, n_frames=t) == pytest.approx(
        slow_flops(config, t, size), rel=1e-9
    )


def test_operations_of_the_published_small_size():
    assert flops_per_frame(vits(), size=(518, 518)) == pytest.approx(121.3e9, rel=1e-3)
