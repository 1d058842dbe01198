"""One clip's labels as they are stored, and the annotators that made them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from stages.annotator import EXACT
from stages.label_noise import SPOILED
from storage.stores.rows import Rows
from storage.stores.store import read_manifest

# What `Labels` holds, by role
LABEL_ARRAYS = {
    "clip": ("rgb",),
    "depth": ("inverse_depth", "valid", "inverse_depth_range"),
    "keypoints": ("tracks", "visible"),
}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Units and meaning of each array are those of the stage that made it."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    inverse_depth: Float[np.ndarray, "t h w"]
    valid: Bool[np.ndarray, "t h w"]
    inverse_depth_range: Float32[np.ndarray, " 2"]
    tracks: Float32[np.ndarray, "t p 2"]
    visible: Bool[np.ndarray, "t p"]


def read_labels(rows: Mapping[str, Rows], row: int) -> Labels:
    """The labels of a row. Raises RejectedRow if one of the stores has no data there."""
    arrays: dict[str, np.ndarray] = {}
    for role, names in LABEL_ARRAYS.items():
        arrays |= rows[role].read(names, row)
    return Labels(**arrays)


@dataclass(frozen=True)
class AnnotatorInfo:
    """What a store's manifest says of the annotator that made it."""

    name: str
    units: str
    stand_in_for: str
    exact: str = ""  # says so if the labels are the simulation's own
    spoiled: str = ""  # how they were spoiled on purpose

    @property
    def caveat(self) -> str:
        """What a reader must know, to follow the name; empty if there is nothing."""
        spoiled = f", spoiled on purpose: {self.spoiled}" if self.spoiled else ""
        if self.exact:
            return f", {self.exact}{spoiled}"
        return (f", a stand-in for {self.stand_in_for}" if self.stand_in_for else "") + spoiled

    @classmethod
    def of(cls, rows: Rows) -> "AnnotatorInfo":
        about = read_manifest(rows.ref).attributes
        units = rows.spec("inverse_depth").units if "inverse_depth" in rows.specs else "px"
        name, replaced = about.get("annotator", "unknown"), about.get("stand_in_for", "")
        said = (str(about.get(what, "")) for what in (EXACT, SPOILED))
        return cls(str(name), units, str(replaced), *said)
