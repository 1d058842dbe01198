"""Confidence intervals of means over clips, by resampling whole episodes.

Clips of one episode show the same scene and much of the same motion, so they are not independent:
a bootstrap over clips gives intervals that are too narrow. Episodes are drawn with replacement,
each with all of its clips (the cluster bootstrap: Davison and Hinkley 1997, section 3.8).

Percentiles of few draws are too narrow as well. Their levels are moved outward as Hesterberg (2015,
"What Teachers Should Know about the Bootstrap", section 4) does: by Student's t in place of the
normal distribution, and by sqrt(n / (n - 1)) for the spread that n episodes understate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, t

LEVEL = 0.95
DRAWS = 10_000
# With n episodes, all on one side of the truth with probability 2^(1 - n), no interval within
# their range can cover more: 88 % at 4, 94 % at 5
FEWEST = 5
AT_ONCE = 2_000_000  # drawn episodes in memory


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over clips and its interval; None with too few episodes for one (`FEWEST`)."""

    mean: float
    interval: tuple[float, float] | None
    n_clips: int
    n_episodes: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below 0, else 0."""
        if self.interval is None:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


def estimate(values: Sequence[float], episodes: Sequence[str], seed: int = 0) -> Estimate:
    """The mean of one finite value a clip, with a 95 % interval; `episodes` names each clip's.

    Every clip counts alike, so the mean is that of all other tables. Raises ValueError for no
    values, or for one that is not finite.
    """
    found = np.asarray(values, np.float64)
    if len(found) != len(episodes) or len(found) == 0:
        raise ValueError(f"{len(found)} values of {len(episodes)} clips: expected one each")
    if not np.isfinite(found).all():
        raise ValueError(f"value {found[~np.isfinite(found)][0]}: expected finite ones")
    names, cluster = np.unique(np.asarray(episodes), return_inverse=True)
    sums, counts = np.bincount(cluster, found), np.bincount(cluster)
    interval = None
    if len(names) >= FEWEST:
        means = resampled_means(sums, counts, np.random.default_rng(seed))
        low, high = np.quantile(means, levels(len(names)))
        interval = (float(low), float(high))
    return Estimate(
        mean=float(found.mean()), interval=interval, n_clips=len(found), n_episodes=len(names)
    )


def resampled_means(
    sums: Float[np.ndarray, " e"], counts: Int[np.ndarray, " e"], random: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Means over the clips of as many episodes as there are, drawn with replacement."""
    n = len(sums)
    chunk = max(1, AT_ONCE // n)
    parts = []
    for start in range(0, DRAWS, chunk):
        drawn = random.integers(0, n, (min(chunk, DRAWS - start), n))
        parts.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(parts)


def levels(n_episodes: int) -> tuple[float, float]:
    """The percentiles, as shares, that make a 95 % interval of n episodes."""
    spread = np.sqrt(n_episodes / (n_episodes - 1)) * t.ppf((1 + LEVEL) / 2, n_episodes - 1)
    outer = float(norm.cdf(-spread))
    return outer, 1 - outer
