"""Shared by the tests of Video Depth Anything: a network that runs in milliseconds."""

import functools
from dataclasses import replace

import torch
from golden_weights import load_fixture, with_golden_weights

from model.video_depth.config import VideoDepthConfig, vits
from model.video_depth.model import VideoDepth
from model.video_depth.temporal_head import PositionTable

SMALL = VideoDepthConfig(
    width=64,
    n_blocks=4,
    n_heads=2,
    taps=(0, 1, 2, 3),
    tap_widths=(32, 32, 32, 32),
    head_width=32,
    position_grid=4,
)
TINIEST = replace(SMALL, width=32, position_grid=3)
# The references' change to the weight rule
OPEN_RELU = {"head.scratch.output_conv2.2.bias": lambda value: value + 3}


def lively(config: VideoDepthConfig = SMALL) -> VideoDepth:
    """A network whose parts all matter: untrained motion modules would be identities."""
    with torch.device("meta"):  # the weights are replaced at once
        network = VideoDepth(config)
    return with_golden_weights(network.to_empty(device="cpu"), OPEN_RELU)


def timeless(network: VideoDepth) -> VideoDepth:
    """The network without frame numbers in its motion modules: a still video has still depth."""
    for module in network.head.motion_modules.modules():
        if isinstance(module, PositionTable):
            module.pe.zero_()
    return network


def references() -> dict:
    return load_fixture("vda_vits_parity.npz")


@functools.cache
def reference_network() -> VideoDepth:
    """The published vits with the references' weights. Shared: do not modify it."""
    return lively(vits())
