"""Flags: what stages doubt about single clips. Which there are, who has them, who drops them.

Two stages set flags: `clip` about the recording, `label_quality` about the labels. Both are read
here and nowhere else, so that counting, limiting and dropping work alike for all of them. The table
in docs/reliability.md is made of `FLAGS`, and a test compares them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Bool, Int

from stages.clips.recording_flags import FLAGS as CLIP_FLAGS
from stages.clips.recording_flags import RECORDING
from stages.label_quality.measures import FLAGS as LABEL_FLAGS
from stages.label_quality.measures import MEASURES
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
        name: Flag(name=name, stage="clip", about=about, is_doubt=is_doubt)
        for name, (about, is_doubt) in RECORDING.items()
    },
    **{
        m.flag: Flag(name=m.flag, stage="label_quality", about=f"`{m.name}` is out of `{m.limit}`")
        for m in MEASURES
    },
}

Flagged = dict[str, Bool[np.ndarray, " n"]]  # flag -> which of some rows have it


def flagged(store: Rows, rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows of a store; empty if its stage sets none. All rows must have data."""
    if "flags" not in store.specs:
        return {}
    found = store.gather("flags", rows)
    if found.ndim == 1:  # bits of `label_quality`
        return {name: (found >> bit & 1).astype(bool) for bit, name in enumerate(LABEL_FLAGS)}
    # A store says which flags it has: later versions may know more
    named = tuple(store.spec("flags").about.split(", "))
    names = named if len(named) == found.shape[1] else CLIP_FLAGS
    return {name: found[:, i] for i, name in enumerate(names)}


def all_flagged(stores: Mapping[str, Rows], rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows in every store that has some."""
    found: Flagged = {}
    for role in ("clip", "label_quality"):
        if role in stores:
            found |= flagged(stores[role], rows)
    return found


def has_any(found: Flagged, names: Iterable[str], n: int) -> Bool[np.ndarray, " n"]:
    """Which rows have one of these flags. Raises ValueError for a flag that no store has."""
    wanted = list(names)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"drop_flags names {missing}, but the stores here have {sorted(found) or 'no flags'}: "
            "they are older, or of another stage. Make them again, or name other flags"
        )
    return reduce(np.logical_or, (found[name] for name in wanted), np.zeros(n, bool))


def flag_counts(found: Flagged) -> dict[str, int]:
    """How many rows have each flag; flags that no row has are left out."""
    counts = {name: int(has.sum()) for name, has in found.items()}
    return {name: n for name, n in counts.items() if n}


def counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def check_names(owner: str, names: Iterable[str]) -> None:
    """Raises ValueError for names that are no flags."""
    if unknown := [name for name in names if name not in FLAGS]:
        raise ValueError(f"{owner}={unknown}: expected a list of some of {', '.join(FLAGS)}")


def check_share_field(owner: str, share: float) -> None:
    """Raises ValueError for a limit that is no share."""
    if not 0 <= share <= 1:
        raise ValueError(f"{owner}={share}: expected a share between 0 and 1")


def check_share(store: Rows, limit: float, setting: str) -> None:
    """Raises ValueError if more than the share `limit` of a store's clips is in doubt."""
    rows = np.flatnonzero(store.ok)
    if limit >= 1 or not len(rows):
        return
    found = {n: has for n, has in flagged(store, rows).items() if n in FLAGS and FLAGS[n].is_doubt}
    n = int(has_any(found, found, len(rows)).sum())
    if n > limit * len(rows):
        raise ValueError(
            f"{n} of {len(rows)} clips of {store.ref} ({n / len(rows):.1%}) are flagged: "
            f"{counts_text(flag_counts(found))}; {setting}={limit:g} allows {limit:.1%}. The store "
            "is kept: mend the episodes, leave such clips out (world_model.drop_flags), or raise "
            "the limit; nothing is made again for another limit"
        )
