"""Intervals: that they cover the truth as often as they say, and not by resampling clips."""

import numpy as np
import pytest

from stages.comparison import bootstrap
from stages.comparison.bootstrap import DRAWS, FEWEST, estimate, levels, resampled_means

TRIALS = 400
TRUTH = 0.7


def simulated(random: np.random.Generator, n_episodes: int, skewed: bool):
    """Differences of 1 to 6 clips an episode: each has its episode's part and one of its own."""
    values, episodes = [], []
    for episode in range(n_episodes):
        part = random.exponential() - 1 if skewed else random.normal()
        for _ in range(random.integers(1, 7)):
            values.append(TRUTH + part + 0.5 * random.normal())
            episodes.append(f"1/{episode}")
    return values, episodes


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("n_episodes", [6, 12, 40])
def test_intervals_cover_the_truth(n_episodes, skewed, monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 2000)
    random = np.random.default_rng(n_episodes)
    covered = 0
    for _ in range(TRIALS):
        low, high = estimate(*simulated(random, n_episodes, skewed)).interval
        covered += low <= TRUTH <= high
    # A skewed distribution is the hardest of all with few episodes
    fewest = 0.85 if skewed and n_episodes < 40 else 0.90
    assert fewest <= covered / TRIALS <= 0.98


def test_resampling_clips_would_not_cover(monkeypatch):
    """The control: the same with every clip as an episode of its own."""
    monkeypatch.setattr(bootstrap, "DRAWS", 2000)
    random, covered = np.random.default_rng(1), 0
    for _ in range(TRIALS):
        values, _ = simulated(random, 12, False)
        low, high = estimate(values, [str(i) for i in range(len(values))]).interval
        covered += low <= TRUTH <= high
    assert covered / TRIALS < 0.85


def test_no_difference_is_called_one_in_twenty_at_most(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 2000)
    random, called = np.random.default_rng(2), 0
    for _ in range(TRIALS):
        values, episodes = simulated(random, 12, False)
        called += estimate([value - TRUTH for value in values], episodes).sign != 0
    assert called / TRIALS <= 0.10


def test_the_mean_is_over_clips_and_the_interval_is_the_same_each_time():
    values, episodes = [1.0, 2.0, 3.0, 10.0, 4.0, 4.0], ["a", "a", "b", "c", "d", "e"]
    found = estimate(values, episodes)
    assert found.mean == 4.0 and (found.n_clips, found.n_episodes) == (6, 5)
    assert found == estimate(values, episodes)
    low, high = found.interval
    assert 1.5 <= low < 4 < high <= 10


def test_a_slow_resampling_finds_the_same():
    values, episodes = [1.0, 2.0, 3.0, 7.0, 4.0, 4.0, 0.0], ["a", "a", "b", "c", "d", "e", "f"]
    random, means = np.random.default_rng(5), []
    by_episode = {
        name: [v for v, e in zip(values, episodes, strict=True) if e == name]
        for name in sorted(set(episodes))
    }
    for _ in range(DRAWS):
        names = random.choice(list(by_episode), len(by_episode))
        drawn = [value for name in names for value in by_episode[name]]
        means.append(sum(drawn) / len(drawn))
    sums, counts = np.array([3.0, 3, 7, 4, 4, 0]), np.array([2, 1, 1, 1, 1, 1])
    ours = resampled_means(sums, counts, np.random.default_rng(0))
    # Its values are 1/6 apart
    tenths = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(ours, tenths), np.quantile(means, tenths), atol=0.2)
    low, high = estimate(values, episodes).interval
    assert (low, high) == tuple(np.quantile(ours, levels(6)))


def test_too_few_episodes_have_no_interval():
    few = estimate([1.0] * (FEWEST - 1), list("abcd"))
    assert few.interval is None and few.sign == 0 and few.mean == 1
    assert estimate([1.0] * FEWEST, list("abcde")).sign == 1
    assert estimate([-1.0] * FEWEST, list("abcde")).sign == -1


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [1.0]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError):
        estimate(values, ["a"] * (2 if values else 0))
