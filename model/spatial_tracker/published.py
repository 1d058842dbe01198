"""The published file `spaT_final.pth` into our classes: tensors of a pickle in, a network with exactly those out.

Its weights are CC-BY-NC 4.0. It also holds parts of the training that inference never used; they are left out.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.spatial_tracker.config import SpatialTrackerConfig, published
from model.spatial_tracker.model import SpatialTracker

UNUSED = ("updateformer.RigidProj.", "updateformer.Proj.", "updateformer.se3_dec.", "embedProj.")
WRAPPERS = ("model", "state_dict")
NAMES_SHOWN = 3  # names an error lists before it only counts


def load_published(
    path: str | Path, config: SpatialTrackerConfig | None = None, *, ignore: tuple[str, ...] = ()
) -> SpatialTracker:
    """The network of a published file, on the CPU and in evaluation mode.

    `config` is `published()` unless given; `replace(published(), window=8)` fits the same file. Entries that start
    with one of `ignore` are left out, as those in `UNUSED` are. Nothing but tensors is unpickled.
    Raises ValueError if the file is not such a checkpoint, or its entries are not those of `config`.
    """
    config = config or published()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not a checkpoint of tensors only, so it is not read (weights_only=True): {error}. If you trust "
            "its source, save the state dict of torch.load(path, weights_only=False) to a new file once and use that"
        ) from error
    try:
        chosen = published_state(unwrapped(content), config, ignore=ignore)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with torch.device("meta"):
        network = SpatialTracker(config)
    network.load_state_dict(chosen, assign=True)
    return network.eval()


def unwrapped(content: Any) -> dict[str, Tensor]:
    """The state dict in a file's content.

    It is the content itself, or lies under "model" or "state_dict", also one in the other. "module." (of data-parallel
    training) is taken off if every name has it. Raises ValueError if there is anything but tensors in it.
    """
    wrapper = next((name for name in WRAPPERS if isinstance(content, dict) and name in content), None)
    if wrapper is not None:
        return unwrapped(content[wrapper])
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"expected a dict of tensors, or one under {' or '.join(map(repr, WRAPPERS))}, found {_described(content)}"
        )
    prefix = "module."
    if all(name.startswith(prefix) for name in content):
        return {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def published_state(
    state: Mapping[str, Tensor], config: SpatialTrackerConfig, *, ignore: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The entries that `SpatialTracker(config)` loads, as float32 copies.

    Raises ValueError naming the first entries that are missing, left over or of another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in SpatialTracker(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items() if not name.startswith(UNUSED + ignore)}
    differing = [
        f"{name} {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    complaints = [
        *_listed("missing", [name for name in expected if name not in found]),
        *_listed("not in this network", [name for name in found if name not in expected]),
        *_listed("of another shape", differing),
    ]
    if complaints:
        raise ValueError(
            f"the entries do not fit {config}: {'; '.join(complaints)}. Sizes are in model/spatial_tracker/config.py; "
            "leftovers that the network has no use for can be named in `ignore`"
        )
    return {name: state[name].detach().to(torch.float32, copy=True) for name in expected}


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"]


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    name, value = next((name, value) for name, value in content.items() if not isinstance(value, Tensor))
    return f"a dict with {name!r} of type {type(value).__name__}"
