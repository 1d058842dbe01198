"""Published checkpoints into our classes: one flat state dict per file, whose names are already ours.

The files (`video_depth_anything_vits.pth`, `metric_video_depth_anything_vits.pth`, and so on for vitb and vitl) are on
Hugging Face under depth-anything; nothing is downloaded here. Their terms differ by size: see `licence`.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.video_depth.config import VideoDepthConfig, vitb, vitl, vits
from model.video_depth.model import VideoDepth

NAMES_SHOWN = 3  # names an error lists before it only counts
NON_COMMERCIAL = "CC-BY-NC-4.0"
LICENCES = {vits(): "Apache-2.0", vitb(): NON_COMMERCIAL, vitl(): NON_COMMERCIAL}


def load_published(path: str | Path, config: VideoDepthConfig) -> VideoDepth:
    """The network of a published file, on the CPU and in evaluation mode. Nothing but tensors is unpickled.

    Warns where the weights' licence forbids commercial use, of the weights and perhaps of what is made with them.
    Raises ValueError if the file is not such a checkpoint, if its entries are not those of `config`, or if `config`
    contradicts a published name on whether depth is metric (the contents do not tell).
    """
    path = Path(path)
    named = re.fullmatch(r"(metric_)?video_depth_anything_vit[sbl]\.pth", path.name)
    if named and bool(named[1]) != config.metric:
        raise ValueError(
            f"{path}: by its name its output is {replace(config, metric=bool(named[1])).units}, but config.metric="
            f"{config.metric} makes it {config.units}: change the config, or the name if that is wrong"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path}: damaged, or holds more than tensors, which is not read (weights_only=True): {error}. "
            "The published files hold tensors only: fetch it again from their authors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected one flat dict of tensors, found {type(state).__name__} of other things")
    with torch.device("meta"):
        network = VideoDepth(config)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    complaints = differences(state, expected)
    if complaints:
        raise ValueError(
            f"{path}: its weights do not fit {config}: {'; '.join(complaints)}. "
            "Layouts are in model/video_depth/config.py (vits, vitb, vitl)"
        )
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    if licence(config) == NON_COMMERCIAL:
        warnings.warn(f"{path}: weights under {NON_COMMERCIAL}: not for commercial use", stacklevel=2)
    return network.eval()


def licence(config: VideoDepthConfig) -> str:
    """Of the published weights with this layout; `unknown` for another layout.

    As their authors state it for the relative ones; metric files are taken to follow their size.
    """
    return LICENCES.get(replace(config, metric=False), "unknown")


def differences(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps `state` from being loaded: the first entries that are missing, left over, or of another shape."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    reshaped = [
        f"{name} {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return [
        *_listed("missing", [name for name in expected if name not in shapes]),
        *_listed("not in this layout", [name for name in shapes if name not in expected]),
        *_listed("of another shape", reshaped),
    ]


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"]
