"""Reads states of the first format: PyTorch's own distributed checkpoint, without digests.

    .metadata           a pickle: what is where
    __0_0.distcp ...    each worker's chunks, one `torch.save` after the other

A pickle runs code when it is read. So `.metadata` is read with a list of the classes that PyTorch
writes there, and nothing else is built; the chunks are read as tensors only (`weights_only`).
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from model.training.state_files import DamagedState

METADATA = ".metadata"
_DCP = "torch.distributed.checkpoint"
ALLOWED = {
    *(
        (f"{_DCP}.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    (f"{_DCP}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
}


class OldStateReader(FileSystemReader):
    """PyTorch's reader, but for the pickle."""

    def read_metadata(self) -> Metadata:  # type: ignore[override]
        return read_old_metadata(Path(self.path))


class _ListedClasses(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no saved state needs")


def read_old_metadata(folder: Path) -> Metadata:
    """What an old state holds. Raises DamagedState if it cannot be read, or asks to run code."""
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            found = _ListedClasses(file).load()
        if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
            raise DamagedState(f"{path}: holds {type(found).__name__}, expected a state's metadata")
        found.storage_meta = StorageMeta()
        for chunk in found.storage_data.values():
            name = chunk.relative_path
            if Path(name).name != name:
                raise DamagedState(f"{path}: the file name {name!r} leaves the state's folder")
            size = (folder / name).stat().st_size
            if not 0 <= chunk.offset <= chunk.offset + chunk.length <= size:
                raise DamagedState(
                    f"{folder / name} has {size} bytes, of which {path} names {chunk.length} from "
                    f"{chunk.offset}: the file was cut"
                )
    except DamagedState:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise DamagedState(f"{path}: cannot be read ({error})") from error
    return found
