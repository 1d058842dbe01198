"""The files of one saved state: tensors as safetensors, and a JSON record of them with digests.

    worker-00000.safetensors ...    what each worker wrote: whole tensors, or its shards of them
    about.json                      what is where, and each file's size and SHA-256

PyTorch's distributed checkpoint divides the tensors among the workers that save and those that
read; how many they are need not be the same. Its own files hold pickles, which run code when they
are read; these hold none.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from model.training.checkpoint import naming_file

ABOUT = "about.json"
FORMAT = 2  # of the record; 1 is PyTorch's own, see `old_state_files`
Place = tuple[str, tuple[int, ...]]  # of a chunk: its tensor's name, and its offset in it


class DamagedState(ValueError):
    """A saved state is not what was written, or cannot be read."""


# Writing


class StateWriter(StorageWriter):
    """Writes this rank's chunks to one file. On rank 0, `record` holds all ranks' afterwards."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.record: dict[str, Any] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one state to the next: each has its own writer."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Gives each rank the name of its file."""
        return [
            replace(plan, storage_data=f"worker-{rank:05d}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes, flushes and hashes the file."""
        tensors: dict[str, Tensor] = {}
        chunks: list[tuple[MetadataIndex, dict[str, Any]]] = []
        for item in plan.items:
            tensor = _own_memory(planner.resolve_data(item), tensors.values())
            offset = list(item.index.offset or ())
            key = f"{item.index.fqn}@{','.join(map(str, offset))}"
            tensors[key] = tensor
            chunk = {"key": key, "offset": offset, "shape": list(tensor.shape)}
            chunks.append((item.index, chunk))
        path = self.folder / plan.storage_data
        with naming_file(path):
            save_file(tensors, path)
            flush(path)
        file = {"file": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)}
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [WriteResult(index, file["size"], {**chunk, **file}) for index, chunk in chunks]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, dict[str, Any]] = {}
        chunks: dict[str, list[dict[str, Any]]] = {}
        for result in (result for of_rank in results for result in of_rank):
            found = dict(result.storage_data)
            files[found["file"]] = {"size": found.pop("size"), "sha256": found.pop("sha256")}
            chunks.setdefault(result.index.fqn, []).append(found)
        tensors = {
            name: {
                "dtype": str(about.properties.dtype).removeprefix("torch."),
                "shape": list(about.size),
                "chunks": chunks[name],
            }
            for name, about in metadata.state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata)
        }
        self.record = {"files": files, "tensors": tensors}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, Path)


def _own_memory(tensor: Any, others: Iterable[Tensor]) -> Tensor:
    """On the CPU, contiguous, and sharing its memory with no other tensor, as safetensors wants."""
    value = tensor.detach().cpu().contiguous()
    is_view = value.untyped_storage().nbytes() != value.nbytes
    tied = value.nbytes and any(value.data_ptr() == other.data_ptr() for other in others)
    return value.clone() if is_view or tied else value


def encode_record(record: Mapping[str, Any]) -> bytes:
    """JSON with the SHA-256 of the content as its last entry."""
    return json.dumps({**record, "format": FORMAT, "sha256": _digest(record)}).encode()


def _digest(record: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in record.items() if name not in ("format", "sha256")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def flush(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Reading


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a state, whose names and sizes can be relied on. Raises DamagedState."""
    path = folder / ABOUT
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise DamagedState(f"{path}: holds {type(record).__name__}, expected an object")
        if "format" not in record:  # of the first format, without digests
            return record
        if record["format"] != FORMAT:
            raise DamagedState(
                f"{path}: format {record['format']!r}, this version reads {FORMAT} and older ones"
            )
        if record["sha256"] != _digest(record):
            raise DamagedState(f"{path}: its content is not that of its own SHA-256")
        for name in record["files"]:
            if Path(name).name != name:
                raise DamagedState(f"{path}: the file name {name!r} leaves the state's folder")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedState):
            raise
        raise DamagedState(f"{path}: cannot be read ({error!r})") from error
    return record


def check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of a state, or None."""
    path = folder / name
    try:
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{path} has {size} bytes, {expected['size']} were written"
        if sha256_of(path) != expected["sha256"]:
            return f"{path} has another SHA-256 than when it was written"
    except OSError as error:
        return f"{path} cannot be read ({error})"
    return None


class StateReader(StorageReader):
    """Reads chunks of a checked state; only what the plan asks for."""

    def __init__(self, folder: Path, record: Mapping[str, Any]):
        self.folder, self.record = folder, record
        self.places: dict[Place, tuple[str, str]] = {
            (name, tuple(chunk["offset"])): (chunk["file"], chunk["key"])
            for name, tensor in record["tensors"].items()
            for chunk in tensor["chunks"]
        }

    def reset(self, checkpoint_id: Any = None) -> None:
        """A reader serves one state."""

    def read_metadata(self, *args: Any) -> Metadata:
        found: dict[str, Any] = {}
        for name, tensor in self.record["tensors"].items():
            chunks = [
                ChunkStorageMetadata(torch.Size(chunk["offset"]), torch.Size(chunk["shape"]))
                for chunk in tensor["chunks"]
            ]
            dtype = TensorProperties(dtype=getattr(torch, tensor["dtype"]))
            found[name] = TensorStorageMetadata(dtype, torch.Size(tensor["shape"]), chunks)
        return Metadata(found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any) -> None:
        """All is read from the record."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[tuple[str, Any]]] = {}
        for item in plan.items:
            place = (item.storage_index.fqn, tuple(item.storage_index.offset or ()))
            file, key = self.places[place]
            by_file.setdefault(file, []).append((key, item))
        for name, items in by_file.items():
            with safe_open(str(self.folder / name), framework="pt") as file:
                for key, item in items:
                    starts, lengths = item.storage_offsets, item.lengths
                    pick = tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))
                    value = file.get_slice(key)[pick] if pick else file.get_tensor(key)
                    target = planner.resolve_tensor(item).detach()
                    assert target.shape == value.shape, (item.storage_index, target.shape)
                    target.copy_(value)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, Path)
