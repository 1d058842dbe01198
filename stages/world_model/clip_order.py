"""The order of a training's clips by difficulty, and trainings on fewer episodes: for studies.

A clip is difficult if its hands move far and its grippers change much. Ranks of both are added, so
that neither unit weighs more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from stages.batches import BatchOrder, check_order, check_rank, raw_draws
from stages.clips.arm_vectors import ARM_WIDTH

Order = Literal["random", "easy-first", "hard-first"]
# The easiest fifth at first, all of it from 60 % of the steps on (competence-based curriculum,
# Platanios et al. 2019, arXiv:1903.09848, with a linear schedule)
FIRST_SHARE, ALL_FROM = 0.2, 0.6
AT_ONCE = 1024  # clips whose actions are in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class CurriculumOrder:
    """Batches drawn from a growing part of the rows. Counterpart of `BatchOrder`.

    rows: from the first to be used to the last. Within the part that is open, rows are drawn with
    replacement, by (data, seed, step) alone.
    """

    rows: Int[np.ndarray, " n"]
    batch_size: int  # of the global batch, over all ranks
    n_batches: int  # of the whole training
    seed: int
    fingerprint: str

    def __post_init__(self):
        check_order(len(self.rows), self.batch_size)

    def open_at(self, step: int) -> int:
        """How many rows are in use at batch `step`; one at least."""
        done = step / max(1, ALL_FROM * self.n_batches)
        share = min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * done)
        return max(1, round(share * len(self.rows)))

    def at(self, step: int, rank: int = 0, n_ranks: int = 1) -> Int[np.ndarray, " b"]:
        """The rows of one rank's share of batch `step` (from 0)."""
        check_rank(rank, n_ranks, self.batch_size)
        draws = raw_draws(self.batch_size, "curriculum", self.fingerprint, self.seed, step)
        chosen = (draws % np.uint64(self.open_at(step))).astype(np.int64)
        return self.rows[chosen[rank::n_ranks]]


def batch_order(
    order: Order,
    read_actions: Callable[[np.ndarray], np.ndarray],
    used: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    n_batches: int,
    seed: int,
    fingerprint: str,
) -> BatchOrder | CurriculumOrder:
    """The batches of a training on these rows; see `BatchOrder` and `CurriculumOrder`.

    read_actions: rows (n) -> their actions (n t s a).
    """
    if order == "random":
        return BatchOrder(rows=used, batch_size=batch_size, seed=seed, fingerprint=fingerprint)
    check_order(len(used), batch_size)
    parts = [used[i : i + AT_ONCE] for i in range(0, len(used), AT_ONCE)]
    found = np.concatenate([amounts(read_actions(part)) for part in parts])
    easiest_first = used[np.argsort(difficulty(found), kind="stable")]
    return CurriculumOrder(
        rows=easiest_first if order == "easy-first" else easiest_first[::-1],
        batch_size=batch_size,
        n_batches=n_batches,
        seed=seed,
        fingerprint=fingerprint,
    )


def amounts(actions: Float[np.ndarray, "n t s a"]) -> Float[np.ndarray, "n 2"]:
    """Of each clip the m that its hands are moved, and by how much its grippers open and close."""
    n_arms = actions.shape[-1] // ARM_WIDTH
    arms = actions.reshape(len(actions), -1, n_arms, ARM_WIDTH).astype(np.float64)
    steps = np.diff(arms, axis=1)
    hands = np.linalg.norm(steps[..., :3], axis=-1).sum(axis=(1, 2))
    return np.stack([hands, np.abs(steps[..., -1]).sum(axis=(1, 2))], axis=1)


def difficulty(found: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """The mean of both ranks, in [0, 1]."""
    return (ranks(found[:, 0]) + ranks(found[:, 1])) / 2


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks in [0, 1]; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts / 2) / len(values))[place]


def of_episodes(
    rows: Int[np.ndarray, " n"],
    tasks: Int[np.ndarray, " n"],
    episodes: Int[np.ndarray, " n"],
    n: int,
) -> Int[np.ndarray, " m"]:
    """The rows of `n` episodes, spread evenly over all of them in the order of the index."""
    names = list(dict.fromkeys(zip(tasks.tolist(), episodes.tolist(), strict=True)))
    if n > len(names):
        raise ValueError(
            f"n_episodes={n}: the training split has clips of {len(names)}, expected at most that"
        )
    chosen = {names[i * len(names) // n] for i in range(n)}
    kept = [(task, episode) in chosen for task, episode in zip(tasks, episodes, strict=True)]
    return rows[np.array(kept)]
