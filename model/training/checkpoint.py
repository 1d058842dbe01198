"""Our own checkpoints: one safetensors file with the weights and, in its header, the config that
builds the network.

A file is written whole or not at all. Published checkpoints of others are read beside their
networks.
"""

import hashlib
import json
import os
import tempfile
import types
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

HEADER_KEY = "roboscape"  # the only metadata entry: several would be written in no fixed order

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def save_model(
    path: str | Path, module: nn.Module, config: Any, *, card: dict[str, Any] | None = None
) -> str:
    """Writes the module's state and its config (a dataclass of plain values); returns the file's
    SHA-256 digest.

    `card` holds anything worth reading later as JSON (step, scores, command). Equal contents give
    equal files.
    """
    header = {"config_type": type(config).__name__, "config": asdict(config), "card": card or {}}
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    content = save(state, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_whole(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def load_model(
    path: str | Path, build: Callable[[ConfigT], ModuleT], config_type: type[ConfigT]
) -> tuple[ModuleT, ConfigT]:
    """The network `build(config)` with the file's weights, on the CPU and in evaluation mode, and
    its config.

    Raises ValueError if the file is damaged, was saved from another kind of config, or has other
    entries.
    """
    header = read_header(path)
    if header["config_type"] != config_type.__name__:
        raise ValueError(
            f"{path}: holds a network built from {header['config_type']}, expected {config_type.__name__}: "
            "this is another kind of network"
        )
    config = from_plain(config_type, header["config"], str(path))
    module = build(config)
    with safe_open(str(path), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: entries differ from those of {config}: {error}") from error
    return module.eval(), config


def read_header(path: str | Path) -> dict[str, Any]:
    """`config_type`, `config` and `card` of a file of ours, without reading its weights."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or make it again"
        ) from error
    if HEADER_KEY not in metadata:
        raise ValueError(f"{path}: no {HEADER_KEY!r} entry in its header: not saved by save_model")
    return json.loads(metadata[HEADER_KEY])


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the target, flushes to disk, then renames: a reader sees the old file or the
    new, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def from_plain(kind: Any, value: Any, where: str = "config") -> Any:
    """A (nested) dataclass, tuple or plain value from what JSON kept of it; the inverse of
    `asdict`.

    Raises ValueError for a field the dataclass does not have. Fields that are absent take their
    defaults.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        known = {field.name for field in fields(kind)}
        unknown = sorted(value.keys() - known)
        if unknown:
            raise ValueError(
                f"{where}: {kind.__name__} has no field {', '.join(unknown)}: "
                "the file was saved by another version of this code"
            )
        hints = get_type_hints(kind)
        return kind(**{name: from_plain(hints[name], part, where) for name, part in value.items()})
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        choices = [choice for choice in inner if choice is not type(None)]
        return (
            None
            if value is None
            else from_plain(choices[0], value, where)
            if len(choices) == 1
            else value
        )
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_plain(part, item, where) for part, item in zip(kinds, value, strict=True))
    return value


def save_half(source: str | Path, target: str | Path) -> str:
    """A file of ours with its weights in float16, half the size, for shipping; returns its SHA-256
    digest.

    `load_model` gives float32 networks from it. Config and card stay.
    """
    with safe_open(str(source), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    halved = {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    }
    content = save(halved, metadata={HEADER_KEY: json.dumps(read_header(source), sort_keys=True)})
    write_whole(Path(target), content)
    return hashlib.sha256(content).hexdigest()
