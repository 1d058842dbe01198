"""A folder is whole or absent."""

import pytest

from storage.atomic import new_folder, write_file


def test_a_new_folder_is_there_when_all_is_in_it(tmp_path):
    target = tmp_path / "deep" / "new"
    with new_folder(target) as folder:
        write_file(folder / "a" / "b.txt", b"x")
        assert not target.exists()
    assert (target / "a" / "b.txt").read_bytes() == b"x"
    assert [path.name for path in target.parent.iterdir()] == ["new"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "new") as folder:
        write_file(folder / "a.txt", b"x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_others_are_kept(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        write_file(folder / "a.txt", b"x")
    for there in (tmp_path / "empty", tmp_path / "empty" / "a.txt"):
        with pytest.raises(FileExistsError, match="something already"), new_folder(there):
            raise AssertionError("never entered")
    assert (tmp_path / "empty" / "a.txt").read_bytes() == b"x"
