"""Clips prepared once: the same rows whether kept in memory, in a file, or not at all."""

import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_disk import fill, make_room, small_disk

from stages.training import prepared_rows
from stages.training.prepared_rows import READ_ROWS, PreparedRows, has_room
from storage.errors import DiskFull


@given(rows=st.lists(st.integers(0, 99), min_size=1, unique=True), data=st.data())
def test_prepared_rows_are_the_same_kept_or_not(rows, data):
    values = np.arange(100) ** 2

    def prepare(chosen):
        return {"value": values[chosen], "pair": np.stack([chosen, -chosen], axis=1)}

    usable = np.array(rows)
    asked = np.array(data.draw(st.lists(st.sampled_from(rows), min_size=1)))
    kept, lazy = PreparedRows(prepare, usable), PreparedRows(prepare, usable, cache_bytes=0)
    assert kept.kept is not None and lazy.kept is None
    for name, expected in prepare(asked).items():
        np.testing.assert_array_equal(kept(asked)[name], expected)
        np.testing.assert_array_equal(lazy(asked)[name], expected)


def squares(chosen):
    return {
        "odd": chosen[:, None] % np.array([2, 3, 5]) == 1,
        "square": chosen.astype(np.float64) ** 2,
    }


def test_prepared_rows_in_a_file_are_the_same_and_are_found_again(tmp_path):
    """Above the limit for memory. Entries of odd sizes are aligned, so that torch can read them."""
    rows, calls = np.arange(0, 300, 3), []

    def prepare(chosen):
        calls.extend(chosen)
        return squares(chosen)

    asked = np.array([297, 0, 33, 33])
    filed = PreparedRows(prepare, rows, cache_bytes=100, folder=tmp_path)
    assert isinstance(filed.kept, np.memmap)
    for name, expected in squares(asked).items():
        found = filed(asked)[name]
        np.testing.assert_array_equal(found, expected)
        torch.from_numpy(found).sum()
    assert sorted(calls) == [0, *rows]  # the first row twice: once to know the sizes
    again = PreparedRows(prepare, rows, cache_bytes=100, folder=tmp_path)
    np.testing.assert_array_equal(again(asked)["square"], filed(asked)["square"])
    assert len(calls) == len(rows) + 2


def test_a_file_of_other_rows_or_half_a_file_is_made_again(tmp_path):
    PreparedRows(squares, np.arange(40), cache_bytes=0, folder=tmp_path)
    other = PreparedRows(squares, np.arange(5, 45), cache_bytes=0, folder=tmp_path)
    np.testing.assert_array_equal(other(np.array([44]))["square"], [44.0**2])

    def killed(chosen):
        if chosen[0] > 40:
            raise KeyboardInterrupt
        return squares(chosen)

    with pytest.raises(KeyboardInterrupt):
        PreparedRows(killed, np.arange(80), cache_bytes=0, folder=tmp_path)
    whole = PreparedRows(squares, np.arange(80), cache_bytes=0, folder=tmp_path)
    np.testing.assert_array_equal(whole(np.arange(80))["square"], np.arange(80.0) ** 2)


def test_without_room_on_the_disk_rows_are_prepared_batch_by_batch(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.warns(UserWarning, match="no room for .* GB of prepared clips"):
        lazy = PreparedRows(squares, np.arange(80), cache_bytes=0, folder=tmp_path)
    assert lazy.kept is None and not list(tmp_path.iterdir())
    np.testing.assert_array_equal(lazy(np.array([7]))["square"], [49.0])


def wide_squares(chosen):
    return {"square": np.repeat((chosen.astype(float) ** 2)[:, None], 1000, axis=1)}


def test_a_disk_that_fills_up_while_rows_are_prepared_ends_no_process(tmp_path):
    with small_disk(tmp_path / "disk") as disk:

        def prepare(chosen):
            if (disk / "rows" / "clips").exists():  # all of its space is taken by now
                fill(disk)
            return wide_squares(chosen)

        with pytest.raises(DiskFull, match=r"while writing .*/rows/part-0"):
            PreparedRows(prepare, np.arange(40), cache_bytes=0, folder=disk / "rows")
        make_room(disk)
        rows = PreparedRows(wide_squares, np.arange(40), cache_bytes=0, folder=disk / "rows")
        np.testing.assert_array_equal(rows(np.arange(40))["square"][:, 0], np.arange(40.0) ** 2)


def test_a_file_without_room_is_an_error_before_the_first_row(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_rows, "has_room", lambda folder, n_bytes: True)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "rows").mkdir()
        with pytest.raises(DiskFull, match=r"writing .*/clips: .*3\.2 MB were to be written"):
            PreparedRows(squares, np.arange(200_000), cache_bytes=0, folder=disk / "rows")
        assert not (disk / "rows" / "clips").exists()


def test_a_file_that_was_only_begun_does_not_count_as_room(tmp_path, monkeypatch):
    n_bytes = 1 << 20
    (tmp_path / "clips").write_bytes(b"")
    os.truncate(tmp_path / "clips", 2 * n_bytes)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=n_bytes))
    assert not has_room(tmp_path, n_bytes)
    (tmp_path / "clips").write_bytes(bytes(n_bytes))
    assert has_room(tmp_path, n_bytes), "of which all is there already"


def test_a_killed_worker_resumes_where_it_saved(tmp_path, monkeypatch):
    """Three of ten runs of rows are done; the next attempt prepares only the others."""
    monkeypatch.setattr(prepared_rows, "SAVE_S", 0.0)
    rows, calls, reported = np.arange(10 * READ_ROWS), [], []

    def prepare(chosen):
        calls.append(int(chosen[0]))
        if calls.count(3 * READ_ROWS) == 1 and chosen[0] == 3 * READ_ROWS:
            raise KeyboardInterrupt
        return squares(chosen)

    with pytest.raises(KeyboardInterrupt):
        PreparedRows(prepare, rows, cache_bytes=0, folder=tmp_path)
    calls.clear()
    whole = PreparedRows(
        squares_noting(calls),
        rows,
        cache_bytes=0,
        folder=tmp_path,
        on_progress=lambda *at: reported.append(at),
    )
    assert calls == [0, *range(3 * READ_ROWS, len(rows), READ_ROWS)], (
        "the first row is read to know the sizes"
    )
    np.testing.assert_array_equal(whole(rows)["square"], rows.astype(float) ** 2)
    assert reported[0] == (4 * READ_ROWS, len(rows)) and reported[-1] == (len(rows), len(rows))


def squares_noting(calls):
    def prepare(chosen):
        calls.append(int(chosen[0]))
        return squares(chosen)

    return prepare


def test_what_another_number_of_workers_began_is_made_again(tmp_path):
    (tmp_path / "begun.json").write_text("of another kind")
    (tmp_path / "part-0").write_text("1")
    (tmp_path / "part-1").write_text("1")
    whole = PreparedRows(squares, np.arange(80), cache_bytes=0, folder=tmp_path)
    np.testing.assert_array_equal(whole(np.arange(80))["square"], np.arange(80.0) ** 2)
    assert not (tmp_path / "part-1").exists()
