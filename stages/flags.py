"""Flags: what stages doubt about single clips. Which there are, who has them, who drops them.

Two stages set flags: `clip` about the recording, `label_quality` about the labels. Both are read
here for all who use them, so that counting, limiting and dropping work alike for all of them. The
table in docs/reliability.md is made of `FLAGS`, and a test compares them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from stages.clips.recording_flags import DOUBTS, RECORDING, recording_flags
from stages.flag_counts import Flagged
from stages.label_quality.measures import MEASURES, label_flags
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Flag:
    """is_doubt: false for what is known of the robot or the data set and makes no clip worse."""

    name: str
    stage: str
    about: str
    is_doubt: bool = True


FLAGS = {
    **{
        name: Flag(name=name, stage="clip", about=about, is_doubt=name in DOUBTS)
        for name, (about, _) in RECORDING.items()
    },
    **{
        m.flag: Flag(name=m.flag, stage="label_quality", about=f"`{m.name}` is out of `{m.limit}`")
        for m in MEASURES
    },
}


def flagged(store: Rows, rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows of a store; empty if its stage sets none. All rows must have data."""
    if "flags" not in store.specs:
        return {}
    bits = not store.spec("flags").shape
    return label_flags(store, rows) if bits else recording_flags(store, rows)


def all_flagged(stores: Mapping[str, Rows], rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows in every store that has some."""
    found: Flagged = {}
    for role in ("clip", "label_quality"):
        if role in stores:
            found |= flagged(stores[role], rows)
    return found


def check_names(owner: str, names: Iterable[str]) -> None:
    """Raises ValueError for names that are no flags."""
    if unknown := [name for name in names if name not in FLAGS]:
        raise ValueError(f"{owner}={unknown}: expected a list of some of {', '.join(FLAGS)}")
