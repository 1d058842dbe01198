"""Opens `proprio_stats.h5` and checks its names, shapes and lengths.

What these functions return needs no further checks; any fault is a SourceError.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import h5py
import numpy as np
from jaxtyping import Int64

from storage.sources.file_ref import FileRef, SourceError

Effector = Literal["gripper", "hand"]


@contextmanager
def open_h5(ref: FileRef) -> Iterator[h5py.File]:
    """The open file. A tar's member is read first (a few MB): HDF5 makes many small reads."""
    if not ref.member and not ref.path.exists():
        raise SourceError("missing_file", ref, "no such file", "proprio_stats.h5")
    try:
        source = io.BytesIO(ref.read_bytes()) if ref.member else ref.path
        file = h5py.File(source, "r", locking=False)
    except OSError as error:
        raise SourceError("corrupt_proprio", ref, str(error), "an HDF5 file") from error
    with file:
        try:
            yield file
        except OSError as error:  # the file ends before its data
            raise SourceError("corrupt_proprio", ref, str(error), "readable data") from error


def read_times(file: h5py.File, ref: FileRef) -> Int64[np.ndarray, " n"]:
    times = _dataset(file, ref, "timestamp")[:]
    if times.ndim != 1 or times.dtype.kind not in "iu" or len(times) < 2:
        what = f"{times.dtype}{list(times.shape)}"
        raise SourceError("bad_timestamps", ref, what, "integer nanoseconds, two or more")
    steps = np.diff(times.astype("int64"))
    if steps.min() <= 0:
        row = int(steps.argmin())
        what = f"{steps[row]} ns from row {row} to the next"
        raise SourceError("bad_timestamps", ref, what, "rising times")
    if not 1e6 <= np.median(steps) <= 2e9:
        what = f"a median step of {np.median(steps):g} ns"
        raise SourceError("bad_timestamps", ref, what, "1 ms to 2 s")
    return times.astype("int64")


def _dataset(file: h5py.File, ref: FileRef, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        folder = file.get(name.rpartition("/")[0] or "/")
        names = sorted(folder) if isinstance(folder, h5py.Group) else "nothing"
        raise SourceError("missing_proprio_key", ref, f"{names} beside it", f"'{name}'")
    return found


_WIDTHS = {"joint/position": (14,), "end/position": (2, 3), "end/orientation": (2, 4)}


def state_dataset(file: h5py.File, ref: FileRef, name: str, n: int) -> h5py.Dataset:
    """`state/<name>`, with one row for each timestamp."""
    found = _dataset(file, ref, f"state/{name}")
    width = _WIDTHS.get(name, found.shape[1:])
    if found.shape != (n, *width) or found.dtype.kind not in "fiu":
        what = f"'state/{name}' {found.dtype}{list(found.shape)}"
        expected = f"numbers, {[n, *width]}, as there are {n} timestamps"
        raise SourceError("corrupt_proprio", ref, what, expected)
    return found


def action_rows(file: h5py.File, ref: FileRef, name: str, n: int) -> Int64[np.ndarray, " m"]:
    """The rows of `action/<name>`: all, those in its `index`, or none if it is empty."""
    found = file.get(f"action/{name}")
    m = len(found) if isinstance(found, h5py.Dataset) and found.ndim else 0
    if m > n:
        what, expected = f"{m} rows of 'action/{name}'", f"at most {n}, one per timestamp"
        raise SourceError("corrupt_proprio", ref, what, expected)
    if m in (0, n):
        return np.arange(m)
    index = np.zeros(0, int)
    for group in (name.partition("/")[0], "joint"):  # the joints' index if the group's is empty
        candidate = file.get(f"action/{group}/index")
        if not index.size and isinstance(candidate, h5py.Dataset):
            index = candidate[:].astype("int64")
    if len(index) != m or index.min() < 0 or index.max() >= n:
        span = f" in {index.min()}..{index.max()}" if len(index) else ""
        found_text = f"{m} rows of 'action/{name}' with {len(index)} indices{span}"
        raise SourceError("corrupt_proprio", ref, found_text, f"an index in 0..{n - 1} for each")
    return index


def effector_of(file: h5py.File, ref: FileRef) -> Effector:
    """Gripper or hand, by the width of `state/effector/position`."""
    shape = _dataset(file, ref, "state/effector/position").shape
    if shape[1:] not in ((2,), (12,)):
        found = f"'state/effector/position' {list(shape)}"
        raise SourceError("corrupt_proprio", ref, found, "2 numbers a row (gripper) or 12 (hands)")
    return "gripper" if shape[1] == 2 else "hand"
