"""A network from the published file `spaT_final.pth`, a pickle.

Its weights are CC-BY-NC 4.0. It also holds entries that inference does not use; they are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.published_files import check_finite, differences, read_tensors, shapes_of
from model.spatial_tracker.config import SpatialTrackerConfig, published
from model.spatial_tracker.model import SpatialTracker

UNUSED = ("updateformer.RigidProj.", "updateformer.Proj.", "updateformer.se3_dec.", "embedProj.")
WRAPPERS = ("model", "state_dict")


def load_published(
    path: str | Path, config: SpatialTrackerConfig | None = None, *, ignore: tuple[str, ...] = ()
) -> SpatialTracker:
    """The network of a published file, on the CPU and in evaluation mode.

    `config` is `published()` unless given; `replace(published(), window=8)` fits the same file.
    Entries that start with one of `ignore` or `UNUSED` are left out. Only tensors are unpickled.
    Raises ValueError if the file is no such checkpoint, or its entries are not those of `config` or
    not finite.
    """
    config = config or published()
    content = read_tensors(path)
    try:
        chosen = published_state(unwrapped(content), config, ignore=ignore)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_finite(chosen, str(path))
    with torch.device("meta"):
        network = SpatialTracker(config)
    network.load_state_dict(chosen, assign=True)
    return network.eval()


def unwrapped(content: Any) -> dict[str, Tensor]:
    """The state dict in a file's content.

    It is the content itself or its entry "model" or "state_dict", also nested. The prefix "module."
    (of data-parallel training) is removed if all names have it. Raises ValueError if anything but
    tensors is in it.
    """
    if isinstance(content, dict):
        for name in WRAPPERS:
            if name in content:
                return unwrapped(content[name])
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(
            f"expected a dict of tensors, or one under {' or '.join(map(repr, WRAPPERS))}, "
            f"found {_described(content)}"
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
        expected = shapes_of(SpatialTracker(config).state_dict())
    used = {name: value for name, value in state.items() if not name.startswith(UNUSED + ignore)}
    complaints = differences(shapes_of(used), expected)
    if complaints:
        raise ValueError(
            f"the entries do not fit {config}: {'; '.join(complaints)}. Sizes are in "
            "model/spatial_tracker/config.py; name leftovers to leave out in `ignore`"
        )
    return {name: state[name].detach().to(torch.float32, copy=True) for name in expected}


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    name, value = next(
        (name, value) for name, value in content.items() if not isinstance(value, Tensor)
    )
    return f"a dict with {name!r} of type {type(value).__name__}"
