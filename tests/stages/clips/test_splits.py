from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.clips.splits import assign_splits

IDS = st.sets(st.integers(0, 10**7), max_size=60)
SHARES = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4))


@given(first=IDS, added=IDS, shares=SHARES)
def test_adding_episodes_moves_none_but_the_one_that_stood_in(first, added, shares):
    before, after = assign_splits(first, *shares), assign_splits(first | added, *shares)
    moved = [e for e in first if before[e] != after[e]]
    # An episode leaves a split only if it was there for want of others
    for split in ("val", "test"):
        left = [e for e in moved if before[e] == split]
        assert len(left) <= 1
        if left:
            assert list(before.values()).count(split) == 1
    # ... and comes into val or test only if that had nobody of its own.
    for split in ("val", "test"):
        assert all(split not in before.values() for e in moved if after[e] == split)


@given(ids=IDS, shares=SHARES)
def test_order_does_not_matter_and_small_sets_have_a_val(ids, shares):
    splits = assign_splits(ids, *shares)
    assert splits == assign_splits(sorted(ids, reverse=True), *shares)
    assert set(splits) == ids
    if list(splits.values()).count("train") >= 2:
        assert "val" in splits.values() or shares[0] == 0
        assert "test" in splits.values() or shares[1] == 0


@pytest.mark.parametrize(
    ("n", "expected"), [(0, ""), (1, "train"), (2, "train val"), (3, "test train val")]
)
def test_the_smallest_sets(n, expected):
    assert " ".join(sorted(assign_splits(range(n), 1e-9, 1e-9).values())) == expected


def test_shares_are_kept_in_a_large_set():
    counts = Counter(assign_splits(range(20_000), 0.1, 0.05).values())
    assert counts["val"] / 20_000 == pytest.approx(0.1, abs=0.008)
    assert counts["test"] / 20_000 == pytest.approx(0.05, abs=0.006)


def test_no_share_no_split():
    assert set(assign_splits(range(100), 0.0, 0.0).values()) == {"train"}


def test_another_salt_draws_another_split():
    one, other = assign_splits(range(300), 0.2, 0.0), assign_splits(range(300), 0.2, 0.0, "b")
    assert one != other and Counter(one.values())["val"] > 30 < Counter(other.values())["val"]


def test_splits_are_these_for_good():
    """A change here would let val episodes of an earlier data set into train."""
    assert [e for e, s in assign_splits(range(648642, 648692), 0.1, 0.1).items() if s == "val"] == [
        648651,
        648659,
        648673,
        648680,
    ]
