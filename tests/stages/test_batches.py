import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stores import opened, square_clips, write_clips, write_index

from stages.batches import BatchOrder, fingerprint, gather, permutation, spread_rows, usable_rows
from stages.training.prefetch import Prefetched

sizes = st.integers(1, 40)


def order(n: int, batch_size: int, seed: int = 0, fingerprint: str = "data") -> BatchOrder:
    rows = np.arange(n) * 3 + 1  # row numbers with gaps, as rejected rows leave them
    return BatchOrder(rows=rows, batch_size=batch_size, seed=seed, fingerprint=fingerprint)


@given(n=sizes, batch_size=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_row_comes_once_an_epoch(n, batch_size, seed):
    whole = order(n, batch_size, seed)
    seen = np.concatenate([whole.at(step) for step in range(2 * n)])
    for epoch in range(len(seen) // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == sorted(whole.rows)


@given(
    n=sizes,
    per_rank=st.integers(1, 4),
    n_ranks=st.sampled_from([1, 2, 4, 8]),
    step=st.integers(0, 20),
)
def test_any_number_of_ranks_sees_the_same_global_batch(n, per_rank, n_ranks, step):
    whole = order(n, per_rank * n_ranks)
    shares = np.stack([whole.at(step, rank, n_ranks) for rank in range(n_ranks)], axis=1)
    np.testing.assert_array_equal(shares.ravel(), whole.at(step))


@given(n=st.integers(30, 60), step=st.integers(0, 30))
def test_order_depends_on_seed_and_data_and_on_nothing_else(n, step):
    reference = order(n, 30).at(step)
    np.testing.assert_array_equal(reference, order(n, 30).at(step))
    assert not np.array_equal(reference, order(n, 30, seed=1).at(step))
    assert not np.array_equal(reference, order(n, 30, fingerprint="other data").at(step))


@given(
    n=sizes,
    numbers=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=30),
    step=st.integers(0, 9),
)
def test_stopped_and_resumed_by_other_numbers_of_ranks_no_row_is_repeated_or_skipped(
    n, numbers, step
):
    """In the middle of an epoch, too: batch after batch, each by another number of ranks."""
    whole = order(n, 12)
    seen = np.concatenate([whole.at(i) for i in range(step)] + [
        np.stack([whole.at(step + i, rank, n_ranks) for rank in range(n_ranks)], axis=1).ravel()
        for i, n_ranks in enumerate(numbers)
    ])  # fmt: skip
    for epoch in range(len(seen) // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == sorted(whole.rows)
    rest = seen[len(seen) // n * n :]
    assert len(set(rest)) == len(rest)


def test_permutation_is_fixed_for_all_time():
    # Resuming on another machine needs this; a changed value would silently repeat and skip clips.
    assert permutation(8, "data", 0, 0).tolist() == [1, 5, 4, 2, 0, 3, 6, 7]


def test_a_global_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match="rank 0 of 3 with batch_size=8"):
        order(10, 8).at(0, 0, 3)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no row is left"):
        BatchOrder(rows=np.array([], np.int64), batch_size=1, seed=0, fingerprint="")


def test_prefetched_batches_come_in_the_order_asked_for():
    made: list[int] = []
    batches = Prefetched(lambda i: made.append(i) or i * i)
    assert [batches(i) for i in (0, 1, 2, 7, 8, 0)] == [0, 1, 4, 49, 64, 0]
    batches.close()
    assert made.count(1) == 1  # made ahead, and not again


def test_an_error_in_a_batch_made_ahead_reaches_the_caller():
    def batch_at(i: int) -> int:
        if i == 1:
            raise OSError("shard 3 is damaged")
        return i

    batches = Prefetched(batch_at)
    assert batches(0) == 0
    with pytest.raises(OSError, match="shard 3"):
        batches(1)
    batches.close()


@pytest.fixture
def stores(tmp_path):
    splits = ["train", "train", "val", "train", "test", "train", "train", "val"]
    index = write_index(tmp_path, splits)
    arrays = square_clips(len(splits))
    clip = write_clips(index, "clip", arrays["clip"], rejected=(1,))
    keypoints = write_clips(index, "keypoints", arrays["keypoints"], rejected=(1, 5))
    return opened({"discover": index, "clip": clip, "keypoints": keypoints}), arrays


def test_rows_rejected_in_any_store_and_other_splits_are_left_out(stores):
    rows, arrays = stores
    assert usable_rows(rows, "train").tolist() == [0, 3, 6]
    assert usable_rows(rows, "val", "test").tolist() == [2, 4, 7]
    with pytest.raises(
        ValueError, match=r"no clip of split holdout.*8 clips in the index.*'train': 5.*6 of them"
    ):
        usable_rows(rows, "holdout")
    found = gather(rows["clip"], ("rgb", "actions"), np.array([6, 0]))
    np.testing.assert_array_equal(found["rgb"], arrays["clip"]["rgb"][[6, 0]])


def test_fingerprint_names_all_stores(stores):
    rows, _ = stores
    assert all(store.ref.key in fingerprint(rows) for store in rows.values())


@given(n=sizes, count=sizes)
def test_spread_rows_are_distinct_and_reach_both_ends(n, count):
    chosen = spread_rows(np.arange(n), count)
    assert len(set(chosen.tolist())) == len(chosen) == min(n, count)
    assert chosen[0] == 0 and (count == 1 or chosen[-1] == n - 1)
