"""What the tests of Video Depth Anything share: a network of the same kind that runs in
milliseconds.
"""

import functools

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
OPEN_RELU = {
    "head.scratch.output_conv2.2.bias": lambda value: value + 3
}  # the references' change to the weight rule


def lively(config: VideoDepthConfig = SMALL) -> VideoDepth:
    """A network whose every part matters: an untrained one's motion modules change nothing."""
    with torch.device("meta"):  # no time spent on weights that are replaced at once
        network = VideoDepth(config)
    return with_golden_weights(network.to_empty(device="cpu"), OPEN_RELU)


def timeless(network: VideoDepth) -> VideoDepth:
    """The network itself, its motion modules no longer told which frame is which: then still video
    has still depth.
    """
    for module in network.head.motion_modules.modules():
        if isinstance(module, PositionTable):
            module.pe.zero_()
    return network


def references() -> dict:
    return load_fixture("vda_vits_parity.npz")


@functools.cache
def reference_network() -> VideoDepth:
    """The published vits with the references' weights. Shared: leave nothing on it."""
    return lively(vits())
