"""Files that come from elsewhere (stores, weights, episodes, actions) run no code when they are
read. Saved states of trainings are tried in `tests/model/training/test_snapshots.py`.
"""

import ast
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from repository import ROOT

from model.lpips import load_lpips
from model.published_files import read_tensors
from model.training.checkpoint import read_header
from simulation.ground_truth import read_ground_truth
from storage.files import LocalFiles
from storage.sources.action_file import read_actions
from storage.sources.agibot.proprio_file import open_h5, read_times
from storage.sources.file_ref import FileRef
from storage.stores.index import read_clips
from storage.stores.records import read_document
from storage.stores.shards import open_zarr

ROOMS = ("roboscape", "pipeline", "stages", "model", "storage", "simulation", "benchmarks")


class Exploit:
    """Unpickling it makes the folder `ran`."""

    def __init__(self, folder: Path):
        self.marker = folder / "ran"

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def object_array(folder: Path) -> np.ndarray:
    return np.array([Exploit(folder)], dtype=object)


def pickled(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(Exploit(folder)))
    return path


def torch_saved(folder: Path) -> Path:
    torch.save({"w": Exploit(folder)}, folder / "a.pth")
    return folder / "a.pth"


def object_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", object_array(folder), allow_pickle=True)
    return folder / "a.npy"


def object_npz(folder: Path) -> Path:
    np.savez(folder / "truth.npz", intrinsics=object_array(folder))
    (folder / "labels.json").write_text("{}")
    return folder


def pickle_in_npz(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "truth.npz", "w") as file:
        file.writestr("intrinsics.npy", pickle.dumps(Exploit(folder)))
    (folder / "labels.json").write_text("{}")
    return folder


def h5_with_pickles(folder: Path) -> FileRef:
    with h5py.File(folder / "a.h5", "w") as file:
        payload = np.void(pickle.dumps(Exploit(folder)))
        file.attrs["PYTHON:OBJECT"] = payload
        file["timestamp"] = payload
    return FileRef(path=folder / "a.h5")


def parquet_with_pickles(folder: Path) -> Path:
    """A column of the extension type that old versions of PyArrow unpickled by themselves."""
    marks = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Exploit(folder)),
    }
    schema = pa.schema([pa.field("clip_id", pa.string(), metadata=marks)])
    pq.write_table(pa.table({"clip_id": ["a"]}, schema=schema), folder / "a.parquet")
    return folder / "a.parquet"


def zarr_with_pickles(folder: Path) -> Path:
    """Zarr 2 had a filter that pickles objects; stores are Zarr 3."""
    (folder / "tokens").mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    about = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None,
        "fill_value": None, "order": "C", "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (folder / "tokens" / ".zarray").write_text(json.dumps(about))
    pickled(folder, "tokens/0")
    return folder


def read_h5(ref: FileRef) -> None:
    with open_h5(ref) as file:
        read_times(file, ref)


def read_lpips(path: Path) -> None:
    load_lpips(path, path)


def read_part(folder: Path) -> None:
    open_zarr(LocalFiles(str(folder)), "")["tokens"][:]  # type: ignore[index]


READERS: dict[str, tuple[Callable, Callable]] = {
    "published weights": (torch_saved, read_tensors),
    "published weights, a bare pickle": (lambda folder: pickled(folder, "a.pth"), read_tensors),
    "LPIPS weights": (torch_saved, read_lpips),
    "our checkpoint": (lambda folder: pickled(folder, "a.safetensors"), read_header),
    "actions": (object_npy, lambda path: read_actions(path, 16)),
    "ground truth": (object_npz, read_ground_truth),
    "ground truth, a bare pickle": (pickle_in_npz, read_ground_truth),
    "an episode's motion": (h5_with_pickles, read_h5),
    "the clip index": (parquet_with_pickles, read_clips),
    "a part of a store": (zarr_with_pickles, read_part),
    "a manifest or seal": (
        lambda folder: pickled(folder, "a.json"),
        lambda path: read_document(LocalFiles(str(path.parent)), path.name),
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_exploit_does_not_run(tmp_path: Path, reader: str):
    make, read = READERS[reader]
    hostile = make(tmp_path)
    with pytest.raises(Exception):  # noqa: B017 (each reader has its own; none may read it)
        read(hostile)
    assert not (tmp_path / "ran").exists()


def test_the_exploit_is_a_real_one(tmp_path: Path):
    pickle.loads(pickle.dumps(Exploit(tmp_path)))
    assert (tmp_path / "ran").exists()


UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "yaml"}
ALLOWED_IMPORTS = (
    "model/published_files.py",  # names the error of torch.load(weights_only=True)
    "model/training/old_state_files.py",  # an Unpickler with a list of classes
)
PROGRAM = "torch.jit.load, which makes a program of the file"
ALLOWED_CALLS = {("model/i3d.py", PROGRAM)}  # where FVD is asked for: docs/weights.md


def test_no_other_reader_can_run_code():
    found: list[str] = []
    for path in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom) and name not in ALLOWED_IMPORTS:
                found += [f"{name}:{node.lineno} imports {n}" for n in imports(node) & UNSAFE]
            if isinstance(node, ast.Call) and (why := unsafe_call(node)):
                if (name, why) in ALLOWED_CALLS:
                    continue
                found.append(f"{name}:{node.lineno} {why}")
    assert found == []


def imports(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    return {(name or "").split(".")[0] for name in names}


def unsafe_call(node: ast.Call) -> str | None:
    called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    if called == "torch.jit.load":
        return PROGRAM
    if called == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if called == "np.load" and given.get("allow_pickle", "False") != "False":
        return "np.load with allow_pickle"
    if called in ("eval", "exec", "pickle.load", "pickle.loads"):
        return called
    if called in ("FileSystemReader", "FileSystemWriter"):
        return f"{called}: its metadata is a pickle"
    return None
