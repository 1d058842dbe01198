"""Curricula and fewer episodes: easy clips first, all of them in the end, the same on any rank."""

import numpy as np
import pytest

from stages.world_model.clip_order import (
    CurriculumOrder,
    amounts,
    batch_order,
    difficulty,
    of_episodes,
    ranks,
)

ROWS = np.arange(100, 150)


def read_actions(rows: np.ndarray) -> np.ndarray:
    """The clip in row r moves a hand by (r - 100) cm in all."""
    return np.concatenate([moving(0.01 * (row - 100), 0.0) for row in rows])


def moving(metres: float, closing: float) -> np.ndarray:
    """One clip's actions: the left hand moves evenly along x, its gripper closes evenly."""
    actions = np.zeros((1, 4, 3, 16), np.float32)
    share = np.linspace(0, 1, 12).reshape(4, 3)
    actions[0, :, :, 0], actions[0, :, :, 7] = metres * share, closing * share
    return actions


def order(name: str, read=read_actions, rows=ROWS, batch_size=8):
    recipe = {"n_batches": 100, "seed": 3, "fingerprint": "data"}
    return batch_order(name, read, rows, batch_size=batch_size, **recipe)


def test_amounts_are_metres_and_changes_of_the_grippers():
    np.testing.assert_allclose(amounts(moving(0.3, 0.7))[0], (0.3, 0.7), rtol=1e-5)
    back = moving(0.3, 0.7)
    back = np.concatenate([back, back[:, ::-1, ::-1]], axis=1)
    np.testing.assert_allclose(amounts(back)[0], (0.6, 1.4), rtol=1e-5)


def test_difficulty_adds_ranks_so_that_units_do_not_matter():
    found = np.array([[1.0, 0], [2, 0], [3, 9]])
    np.testing.assert_allclose(ranks(found[:, 1]), [1 / 3, 1 / 3, 5 / 6])
    scaled = found * (1000, 0.001)
    np.testing.assert_allclose(difficulty(found), difficulty(scaled))
    assert list(np.argsort(difficulty(found))) == [0, 1, 2]


def test_easy_clips_come_first_and_all_of_them_in_the_end():
    easy = order("easy-first")
    first = np.concatenate([easy.at(step) for step in range(5)])
    late = np.concatenate([easy.at(step) for step in range(60, 100)])
    assert first.max() < 100 + 0.3 * 50
    assert set(late) == set(ROWS)
    hard = order("hard-first")
    assert np.concatenate([hard.at(step) for step in range(5)]).min() >= 100 + 0.7 * 50
    opened = [easy.open_at(step) for step in range(100)]
    assert opened[0] == 10 and opened == sorted(opened) and opened[60:] == [50] * 40


def test_shares_of_the_ranks_make_the_batch_and_a_resumed_training_has_the_same():
    easy = order("easy-first")
    for step in (0, 37):
        parts = [easy.at(step, rank, 2) for rank in range(2)]
        whole = np.empty(8, np.int64)
        whole[0::2], whole[1::2] = parts
        np.testing.assert_array_equal(whole, easy.at(step))
        np.testing.assert_array_equal(order("easy-first").at(step), easy.at(step))


def test_random_is_the_order_that_it_always_was():
    found = order("random")
    assert not isinstance(found, CurriculumOrder)
    # Keys of trained models do not say the order: another one would be another model under them
    assert found.at(0).tolist() == [104, 147, 134, 111, 140, 131, 108, 114]
    assert found.at(7).tolist() == [144, 142, 133, 122, 141, 107, 119, 138]


def test_orders_that_cannot_fill_a_batch_are_refused():
    for name in ("random", "easy-first"):
        with pytest.raises(ValueError, match="no row is left to train on"):
            order(name, rows=ROWS[:0])
        with pytest.raises(ValueError, match="batch_size=0: expected 1 or more"):
            order(name, batch_size=0)
        with pytest.raises(ValueError, match="rank 0 of 3 with batch_size=8"):
            order(name).at(0, 0, 3)


def test_actions_are_read_in_parts(monkeypatch):
    monkeypatch.setattr("stages.world_model.clip_order.AT_ONCE", 20)
    asked = []

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return read_actions(rows)

    order("easy-first", read)
    assert asked == [20, 20, 10]


def test_whole_episodes_are_taken_evenly():
    rows = np.arange(10)
    tasks, episodes = np.array([1] * 6 + [2] * 4), np.array([1, 1, 2, 2, 3, 3, 1, 1, 2, 2])
    np.testing.assert_array_equal(of_episodes(rows, tasks, episodes, 5), rows)
    np.testing.assert_array_equal(of_episodes(rows, tasks, episodes, 2), [0, 1, 4, 5])
    with pytest.raises(ValueError, match="n_episodes=6: the training split has clips of 5"):
        of_episodes(rows, tasks, episodes, 6)
