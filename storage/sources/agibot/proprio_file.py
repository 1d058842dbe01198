"""Opens `proprio_stats.h5` and checks its names, shapes and lengths.

What these functions return needs no further checks; any fault is a SourceError. Nothing is read
before its size is known to be sane, and nothing outside of the file is read at all.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import h5py
import numpy as np
from h5py import h5o  # type: ignore[attr-defined]  # not in its stubs
from jaxtyping import Int64

from storage.sources.file_ref import FileRef, SourceError, faults_as

Effector = Literal["gripper", "hand"]

MAX_ROWS = 2_000_000  # 18 hours at 30 Hz; a damaged header claims up to 2**64
MAX_CHUNK_BYTES = 256_000_000  # HDF5 unpacks a whole chunk for a single row of it
MAX_TIME_NS = 1 << 62  # sums of two times still fit in 64 bits


@contextmanager
def open_h5(ref: FileRef) -> Iterator[h5py.File]:
    """The open file. A tar's member is read first (a few MB): HDF5 makes many small reads.

    Whatever h5py raises for a damaged file, here or while it is read, is a SourceError.
    """
    if not ref.member and not ref.path.exists():
        raise SourceError("missing_file", ref, "no such file", "proprio_stats.h5")
    with faults_as("corrupt_proprio", ref, "an HDF5 file that can be read to its end"):
        source = io.BytesIO(ref.read_bytes()) if ref.member else ref.path
        with h5py.File(source, "r", locking=False) as file:
            yield file


def read_times(file: h5py.File, ref: FileRef) -> Int64[np.ndarray, " n"]:
    found = _dataset(file, ref, "timestamp")
    if found.ndim != 1 or found.dtype.kind not in "iu" or not 2 <= len(found) <= MAX_ROWS:
        what = f"{found.dtype}{list(found.shape)}"
        expected = f"integer nanoseconds, 2 to {MAX_ROWS} rows"
        raise SourceError("bad_timestamps", ref, what, expected)
    times = found[:].astype("int64")
    steps = np.diff(times)
    if steps.min() <= 0:
        row = int(steps.argmin())
        what = f"{steps[row]} ns from row {row} to the next"
        raise SourceError("bad_timestamps", ref, what, "rising times")
    if max(-int(times[0]), int(times[-1])) > MAX_TIME_NS:
        what = f"times from {times[0]} to {times[-1]}"
        raise SourceError("bad_timestamps", ref, what, "nanoseconds of this century")
    if not 1e6 <= np.median(steps) <= 2e9:
        what = f"a median step of {np.median(steps):g} ns"
        raise SourceError("bad_timestamps", ref, what, "1 ms to 2 s")
    return times


def optional_dataset(file: h5py.File, ref: FileRef, name: str) -> h5py.Dataset | None:
    """The dataset of this name, if there is one. Raises SourceError (`foreign_data`,
    `corrupt_proprio`) for one that is not wholly in this file, or too large to unpack.
    """
    _check_links(file, ref, name)
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        return None
    elsewhere = h5o.get_info(found.id).fileno != h5o.get_info(file.id).fileno
    if elsewhere or found.is_virtual or found.external:
        what = f"'{name}' takes its values from another file"
        raise SourceError("foreign_data", ref, what, "values in the file itself (repack it)")
    chunk_bytes = found.dtype.itemsize * int(np.prod(found.chunks or (1,), dtype=float))
    if chunk_bytes > MAX_CHUNK_BYTES:
        what = f"'{name}' in chunks of {chunk_bytes / 1e9:.3g} GB"
        expected = f"at most {MAX_CHUNK_BYTES / 1e9:g} GB"
        raise SourceError("corrupt_proprio", ref, what, expected)
    return found


def _check_links(file: h5py.File, ref: FileRef, name: str) -> None:
    """Raises SourceError (`foreign_data`) if a part of the name is a link into another file, before
    h5py follows it.
    """
    parts = name.split("/")
    for i in range(len(parts)):
        path = "/".join(parts[: i + 1])
        link = file.get(path, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            what = f"'{path}' is a link to '{link.path}' in the file {link.filename}"
            raise SourceError("foreign_data", ref, what, "values in the file itself (repack it)")
        if link is None:
            return


def _dataset(file: h5py.File, ref: FileRef, name: str) -> h5py.Dataset:
    found = optional_dataset(file, ref, name)
    if found is None:
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


def action_dataset(
    file: h5py.File, ref: FileRef, name: str, width: tuple[int, ...]
) -> h5py.Dataset:
    """`action/<name>`, with rows like the state's; `action_rows` says which."""
    found = _dataset(file, ref, f"action/{name}")
    if found.shape[1:] != width or found.dtype.kind not in "fiu":
        what = f"'action/{name}' {found.dtype}{list(found.shape)}"
        expected = f"rows of {list(width)} as in the state"
        raise SourceError("corrupt_proprio", ref, what, expected)
    return found


def action_rows(file: h5py.File, ref: FileRef, name: str, n: int) -> Int64[np.ndarray, " m"]:
    """The rows of `action/<name>`: all, those in its `index`, or none if it is empty."""
    found = optional_dataset(file, ref, f"action/{name}")
    m = len(found) if found is not None and found.ndim else 0
    if m > n:
        what, expected = f"{m} rows of 'action/{name}'", f"at most {n}, one per timestamp"
        raise SourceError("corrupt_proprio", ref, what, expected)
    if m in (0, n):
        return np.arange(m)
    index = np.zeros(0, int)
    for group in (name.partition("/")[0], "joint"):  # the joints' index if the group's is empty
        candidate = optional_dataset(file, ref, f"action/{group}/index")
        if not index.size and candidate is not None:
            index = _read_index(candidate, ref)
    if len(index) != m or index.min() < 0 or index.max() >= n:
        span = f" in {index.min()}..{index.max()}" if len(index) else ""
        found_text = f"{m} rows of 'action/{name}' with {len(index)} indices{span}"
        raise SourceError("corrupt_proprio", ref, found_text, f"an index in 0..{n - 1} for each")
    return index


def _read_index(found: h5py.Dataset, ref: FileRef) -> Int64[np.ndarray, " m"]:
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) > MAX_ROWS:
        what = f"'{found.name}' {found.dtype}{list(found.shape)}"
        raise SourceError("corrupt_proprio", ref, what, "row numbers")
    return found[:].astype("int64")


def effector_of(file: h5py.File, ref: FileRef) -> Effector:
    """Gripper or hand, by the width of `state/effector/position`."""
    shape = _dataset(file, ref, "state/effector/position").shape
    if shape[1:] not in ((2,), (12,)):
        found = f"'state/effector/position' {list(shape)}"
        raise SourceError("corrupt_proprio", ref, found, "2 numbers a row (gripper) or 12 (hands)")
    return "gripper" if shape[1] == 2 else "hand"
