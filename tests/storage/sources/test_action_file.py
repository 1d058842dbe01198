"""Actions from users' files: all formats give the same numbers, and faults are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from storage.sources.action_file import read_actions

ACTIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def written(folder: Path, suffix: str, actions: np.ndarray) -> Path:
    path = folder / f"actions{suffix}"
    if suffix == ".npy":
        np.save(path, actions)
    elif suffix == ".json":
        path.write_text(json.dumps(actions.tolist()))
    else:
        path.write_text("\n".join(",".join(map(repr, row)) for row in actions.tolist()) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".json", ".csv"])
def test_every_format_gives_the_same_numbers(tmp_path, suffix):
    read = read_actions(written(tmp_path, suffix, ACTIONS), 3)
    assert read.dtype == np.float32 and read.shape == (5, 1, 3)
    np.testing.assert_array_equal(read[:, 0], ACTIONS)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_sub_steps_are_kept(tmp_path, suffix):
    actions = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    np.testing.assert_array_equal(read_actions(written(tmp_path, suffix, actions), 3), actions)


def test_names_of_columns_are_skipped(tmp_path):
    path = tmp_path / "actions.csv"
    path.write_text("x,y,z\n1,2,3\n\n4,5,6e-1\n")
    np.testing.assert_allclose(read_actions(path, 3)[:, 0], [[1, 2, 3], [4, 5, 0.6]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1,2,3", r"a.txt: found a '.txt' file, expected .npy, .csv, .json"),
        (
            "a.csv",
            "1,2,3\n4,five,6",
            r"a.csv: not a table of numbers \(could not convert string to float: 'five'\)",
        ),
        ("a.csv", "1,2,3\n4,5", "a.csv: not a table of numbers"),
        (
            "a.csv",
            "1,2\n3,4",
            r"shape \(2, 2\), expected \(frames, 3\) or \(frames, sub-steps, 3\)",
        ),
        ("a.csv", "x,y,z\n", r"found an array of shape \(0,\)"),
        ("a.json", "[1, 2, 3]", r"shape \(3,\)"),
        ("a.json", '{"frames": 1}', "not a table of numbers"),
        ("a.json", "[[1, 2, 3", "not a table of numbers"),
        ("a.csv", "1,2,3\n4,nan,6", "frame 1 has a value that is NaN or infinite"),
        ("a.npy", "nothing of the kind", "not a table of numbers"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_actions(path, 3)


def test_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a table of numbers"):
        read_actions(path, 3)
