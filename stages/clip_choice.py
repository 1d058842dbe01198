"""Which clips a stage uses: those with data and without unwanted flags; and what its page says.

`drop_flags` of a stage names flags of `stages.flags`; clips with one of them are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from stages.batches import usable_rows
from stages.flag_counts import counts_text, flag_counts, has_any
from stages.flags import all_flagged
from stages.label_quality.measures import FLAGS as LABEL_FLAGS
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class ChosenClips:
    """rows: those to use. dropped, kept: flag -> clips with it, left out and used."""

    split: str
    n_usable: int  # with data in every store
    rows: Int[np.ndarray, " n"]
    dropped: Mapping[str, int]
    kept: Mapping[str, int]

    @property
    def text(self) -> str:
        """Two short sentences for a page."""
        n, n_dropped = len(self.rows), self.n_usable - len(self.rows)
        used = f"{n} clips of split '{self.split}' used, their flags: "
        used += f"{counts_text(self.kept)}."
        if not n_dropped:
            return used + " None left out for a flag."
        return used + f" {n_dropped} left out for flags: {counts_text(self.dropped)}."


def needs_labels(drop_flags: tuple[str, ...]) -> bool:
    """Whether one of the flags is of the store `label_quality`."""
    return any(name in LABEL_FLAGS for name in drop_flags)


def choose_clips(
    stores: Mapping[str, Rows], split: str, drop_flags: tuple[str, ...]
) -> ChosenClips:
    """The usable clips of a split without these flags. `rows` is empty if all have one.

    Raises ValueError if no clip of the split has data, or no store has one of the flags.
    """
    usable = usable_rows(stores, split)
    found = all_flagged(stores, usable)
    out = has_any(found, drop_flags, len(usable))
    dropped = {name: found[name][out] for name in drop_flags}
    return ChosenClips(
        split=split,
        n_usable=len(usable),
        rows=usable[~out],
        dropped=flag_counts(dropped),
        kept=flag_counts({name: has[~out] for name, has in found.items()}),
    )
