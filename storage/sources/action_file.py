"""Reads a user's actions for the world model: one row of numbers for each frame.

.npy     an array (frames, action) or (frames, sub-steps, action)
.json    the same, as nested lists
.csv     (frames, action): one line per frame; a first line of names is skipped
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32

READERS = (".npy", ".csv", ".json")


def read_actions(path: Path, action_dim: int) -> Float32[np.ndarray, "t i a"]:
    """The file's actions, in its own units; those without sub-steps have one.

    Raises ValueError for another kind of file, another size than `action_dim`, or values that are
    not finite.
    """
    if path.suffix not in READERS:
        raise ValueError(
            f"{path}: found a '{path.suffix}' file, expected {', '.join(READERS)}: convert it"
        )
    try:
        actions = _read(path)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); expected a file of rows of {action_dim} "
            "numbers, as many for each frame"
        ) from error
    except (ValueError, TypeError, EOFError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a table of numbers ({error}); expected rows of {action_dim}, as many for "
            "each frame"
        ) from error
    return as_actions(actions, action_dim, str(path))


def as_actions(actions: np.ndarray, action_dim: int, owner: str) -> Float32[np.ndarray, "t i a"]:
    """These actions, (frames, action) or (frames, sub-steps, action), with an axis of sub-steps.

    Raises ValueError, naming `owner`, if they have another shape or are not all finite.
    """
    if actions.ndim not in (2, 3) or 0 in actions.shape or actions.shape[-1] != action_dim:
        raise ValueError(
            f"{owner}: found an array of shape {actions.shape}, expected (frames, {action_dim}) "
            f"or (frames, sub-steps, {action_dim}): an action of the world model has {action_dim} "
            "values"
        )
    bad = np.argwhere(~np.isfinite(actions))
    if len(bad):
        raise ValueError(
            f"{owner}: frame {bad[0][0]} has a value that is NaN or infinite; expected finite ones"
        )
    return actions.astype(np.float32).reshape(len(actions), -1, action_dim)


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False).astype(np.float32)
    if path.suffix == ".json":
        return np.array(json.loads(path.read_text()), np.float32)
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if lines and not _is_number(lines[0].split(",")[0]):
        lines = lines[1:]
    return np.array([[float(cell) for cell in line.split(",")] for line in lines], np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
