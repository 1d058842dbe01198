"""A network from a published checkpoint: a flat state dict, whose names ours has, too.

The files (`video_depth_anything_vits.pth`, `metric_video_depth_anything_vits.pth`, and so on for
vitb and vitl) are on Hugging Face under depth-anything; nothing is downloaded here. Licences differ
by size: see `licence`.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.published_files import check_finite, differences, read_tensors, shapes_of
from model.video_depth.config import VideoDepthConfig, vitb, vitl, vits
from model.video_depth.model import VideoDepth

NON_COMMERCIAL = "CC-BY-NC-4.0"
LICENCES = {vits(): "Apache-2.0", vitb(): NON_COMMERCIAL, vitl(): NON_COMMERCIAL}


def load_published(path: str | Path, config: VideoDepthConfig) -> VideoDepth:
    """The network of a published file, on the CPU and in evaluation mode.

    Only tensors are unpickled. Warns if the licence forbids commercial use of the weights, and
    perhaps of what is made with them. Raises ValueError if the file is no such checkpoint, if its
    entries are not finite or not those of `config`, or if `config.metric` contradicts a published
    file name (contents do not show it).
    """
    path = Path(path)
    named = re.fullmatch(r"(metric_)?video_depth_anything_vit[sbl]\.pth", path.name)
    if named and bool(named[1]) != config.metric:
        raise ValueError(
            f"{path}: by its name its output is {replace(config, metric=bool(named[1])).units}, "
            f"but config.metric={config.metric} makes it {config.units}: change the config, or the "
            "name if that is wrong"
        )
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path}: expected one flat dict of tensors, found {type(state).__name__} of other "
            "things"
        )
    with torch.device("meta"):
        network = VideoDepth(config)
    complaints = differences(shapes_of(state), shapes_of(network.state_dict()))
    if complaints:
        raise ValueError(
            f"{path}: its weights do not fit {config}: {'; '.join(complaints)}. "
            "Layouts are in model/video_depth/config.py (vits, vitb, vitl)"
        )
    weights = {name: value.float() for name, value in state.items()}
    check_finite(weights, str(path))
    network.load_state_dict(weights, assign=True)
    if licence(config) == NON_COMMERCIAL:
        warnings.warn(
            f"{path}: weights under {NON_COMMERCIAL}: not for commercial use", stacklevel=2
        )
    return network.eval()


def licence(config: VideoDepthConfig) -> str:
    """The licence of the published weights with this layout; `unknown` for another layout.

    Their authors state it for the relative files; metric ones are assumed to have that of their
    size.
    """
    return LICENCES.get(replace(config, metric=False), "unknown")
