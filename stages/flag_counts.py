"""Flags of some clips, by name: which have one, how many, and whether they are too many."""

from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np
from jaxtyping import Bool

Flagged = dict[str, Bool[np.ndarray, " n"]]  # flag -> which of some rows have it


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


def check_share_field(owner: str, share: float) -> None:
    """Raises ValueError for a limit that is no share."""
    if not 0 <= share <= 1:
        raise ValueError(f"{owner}={share}: expected a share between 0 and 1")


def check_share(found: Flagged, n: int, limit: float, whose: str, setting: str) -> None:
    """Raises ValueError if more than the share `limit` of n clips has one of these flags.

    whose: the store, for the message.
    """
    n_flagged = int(has_any(found, found, n).sum())
    if n_flagged > limit * n:
        raise ValueError(
            f"{n_flagged} of {n} clips of {whose} ({n_flagged / n:.1%}) are flagged: "
            f"{counts_text(flag_counts(found))}; {setting}={limit:g} allows {limit:.1%}. The store "
            "is kept: mend the episodes, or raise the limit, for which nothing is made again"
        )
