"""Rows of several stores -> training batches, in an order set by (data set, seed, step) alone.

Nothing is remembered between batches, so a run resumes exactly by asking for the next step. Any
number of ranks see the same global batches: rank r of w takes every w-th element.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt64

from storage.stores.rows import Rows


def usable_rows(rows: Mapping[str, Rows], *splits: str) -> Int[np.ndarray, " n"]:
    """The rows of these splits that have data in every store, ascending.

    `rows["discover"]` has the column `split`. Raises ValueError if there are none, with counts.
    """
    ok = np.logical_and.reduce([store.ok for store in rows.values()])
    split = rows["discover"].gather("split", np.arange(len(ok)))
    chosen = np.flatnonzero(ok & np.isin(split, splits))
    if len(chosen) == 0:
        found = {str(name): int((split == name).sum()) for name in np.unique(split)}
        raise ValueError(
            f"no clip of split {' or '.join(splits)} has data in {sorted(rows)}: {len(split)} "
            f"clips in the index ({found}), {int(ok.sum())} of them with data everywhere. Make "
            "more episodes, or look at the rejected ones"
        )
    return chosen


def gather(
    store: Rows, names: tuple[str, ...], rows: Int[np.ndarray, " b"]
) -> dict[str, np.ndarray]:
    """The named arrays of these rows, (b, ...) each."""
    return {name: store.gather(name, rows) for name in names}


def clip_ids_at(store: Rows, rows: Int[np.ndarray, " b"]) -> list[str]:
    return [store.clip_ids[int(row)] for row in rows]


def spread_rows(rows: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " i"]:
    """At most `count` of the rows, evenly apart: neighbours often come from one episode."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return rows[places]


def fingerprint(rows: Mapping[str, Rows]) -> str:
    """A text that identifies the data: the content keys of the stores."""
    return " ".join(f"{role}={store.ref.key}" for role, store in sorted(rows.items()))


@lru_cache(maxsize=2)  # a batch may span two epochs
def permutation(n: int, fingerprint: str, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of n rows in one epoch, the same on every machine and NumPy version.

    Sorts n raw 64-bit draws of PCG64, whose stream NumPy keeps fixed (that of
    `Generator.permutation` may change).
    """
    return np.argsort(raw_draws(n, fingerprint, seed, epoch), kind="stable")


def raw_draws(n: int, *recipe: object) -> UInt64[np.ndarray, " n"]:
    """n uniform 64-bit integers, a function of the recipe's text alone."""
    digest = hashlib.sha256(repr(recipe).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(n)


def check_order(n_rows: int, batch_size: int) -> None:
    """Raises ValueError for no rows, and for a batch without any."""
    if n_rows == 0:
        raise ValueError("no row is left to train on: all are rejected or of another split")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more")


def check_rank(rank: int, n_ranks: int, batch_size: int) -> None:
    """Raises ValueError if the ranks do not share the batch evenly, or the rank is none of them."""
    if batch_size % n_ranks or not 0 <= rank < n_ranks:
        raise ValueError(
            f"rank {rank} of {n_ranks} with batch_size={batch_size}: expected a multiple of the "
            "ranks, so that the global batch is the same for any number"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchOrder:
    """Which rows are in which batch.

    Batches may span epochs: element i of the endless sequence is place `i % n` of epoch `i // n`.
    So every row comes once an epoch, no remainder is dropped, and a data set smaller than a batch
    works.
    """

    rows: Int[np.ndarray, " n"]  # the rows that may be used
    batch_size: int  # of the global batch, over all ranks
    seed: int
    fingerprint: str  # of the data: other data have another order

    def __post_init__(self):
        check_order(len(self.rows), self.batch_size)

    def at(self, step: int, rank: int = 0, n_ranks: int = 1) -> Int[np.ndarray, " b"]:
        """The rows of one rank's share of batch `step` (from 0)."""
        check_rank(rank, n_ranks, self.batch_size)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[rank::n_ranks]
        epochs, within = np.divmod(places, len(self.rows))
        order = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            shuffled = permutation(len(self.rows), self.fingerprint, self.seed, int(epoch))
            order[here] = shuffled[within[here]]
        return self.rows[order]
