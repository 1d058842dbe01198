"""The names by which arrays of clips are asked for, and reading them by these names."""

import numpy as np
from jaxtyping import Integer

from roboscape.joined import JoinedStores
from storage.stores.spec import ArraySpec

# name -> role of the store, name of the array there
NAMES: dict[str, tuple[str, str]] = {
    "rgb": ("clip", "rgb"),
    "actions": ("clip", "actions"),
    "states": ("clip", "states"),
    "depth": ("depth", "inverse_depth"),
    "tracks": ("keypoints", "tracks"),
    "visible": ("keypoints", "visible"),
    "flags": ("label_quality", "flags"),
    "rgb_tokens": ("rgb_tokens", "rgb_tokens"),
    "depth_tokens": ("depth_tokens", "depth_tokens"),
}


def place(stores: JoinedStores, name: str) -> tuple[str, ArraySpec]:
    """The role of the store that holds the array, and what the array is.

    Raises LookupError for a name that is none of `NAMES` and not `role/array`, for a store that is
    not there, and for an array that the store does not have.
    """
    role, _, array = name.partition("/")
    if name in NAMES:
        role, array = NAMES[name]
    elif not array:
        raise LookupError(
            f"no array '{name}'; there is: {', '.join(NAMES)}, or any array of a store by the "
            "store's name, such as 'clip/intrinsics' or 'label_quality/flicker'"
        )
    specs = stores.rows(role).specs
    if array not in specs:
        raise LookupError(
            f"{stores.rows(role).ref} has no array '{array}'; it has {', '.join(sorted(specs))}"
        )
    return role, specs[array]


def gather(stores: JoinedStores, name: str, rows: Integer[np.ndarray, " n"]) -> np.ndarray:
    """The array of these rows, stacked: (n, *shape). `depth` is float32, NaN where not known.

    Raises RejectedClip for a row that the store does not have, LookupError as `place` does.
    """
    role, spec = place(stores, name)
    lacking = rows[~stores.rows(role).ok[rows]]
    if len(lacking):
        raise stores.rejected(role, int(lacking[0]), name)
    found = stores.rows(role).gather(spec.name, rows)
    if name != "depth":
        return found
    valid = stores.rows(role).gather("valid", rows)
    return np.where(valid, found.astype(np.float32), np.float32(np.nan))
