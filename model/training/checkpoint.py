"""Our own checkpoints: a safetensors file of the weights, with the network's config in its header.

A file is written whole or not at all. Third-party checkpoints are read by each network's
`published` module.
"""

import hashlib
import json
import os
import re
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from model.published_files import differences

SPARE_PARAMETERS = 1000  # of a network that is built, beside those that its file has
HEADER_KEY = "roboscape"  # the only metadata entry: the order of several would not be fixed

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def save_model(
    path: str | Path, module: nn.Module, config: Any, *, card: dict[str, Any] | None = None
) -> str:
    """Writes the module's state and its config; returns the file's SHA-256 digest.

    `config` is a dataclass of plain values. `card` holds what else is worth keeping as JSON (step,
    scores, command). Equal contents give equal files.
    """
    header = {"config_type": type(config).__name__, "config": asdict(config), "card": card or {}}
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    content = save(state, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_whole(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def load_model(
    path: str | Path, build: Callable[[ConfigT], ModuleT], config_type: type[ConfigT]
) -> tuple[ModuleT, ConfigT]:
    """The network `build(config)` with the file's weights, and its config.

    The network is on the CPU and in evaluation mode. Raises ValueError if the file is damaged, was
    saved from another type of config, or has other entries than the network.
    """
    header = read_header(path)
    if header["config_type"] != config_type.__name__:
        raise ValueError(
            f"{path}: holds a network built from {header['config_type']}, expected "
            f"{config_type.__name__}: this is another kind of network"
        )
    config = from_plain(config_type, header["config"], str(path))
    with safe_open(str(path), framework="pt") as file:
        shapes = {
            name: tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a dict)
        }
    require_shapes(lambda: build(config), shapes, str(path), str(config))
    module = build(config)
    with safe_open(str(path), framework="pt") as file:
        module.load_state_dict({name: file.get_tensor(name) for name in shapes})
    return module.eval(), config


def require_shapes(
    build: Callable[[], nn.Module],
    found: Mapping[str, tuple[int, ...]],
    where: str,
    config: str,
) -> None:
    """Raises ValueError unless the network that `build` makes has entries of just these shapes.

    So the sizes that a file's header names allocate nothing before they agree with its data: the
    network is built without memory, and building ends once it has more parameters than the file.
    """
    left = SPARE_PARAMETERS + len(found)

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(
                f"{where}: its header describes a network of more parameters than the {len(found)} "
                "entries of the file: it is damaged, or was not written by this pipeline"
            )

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            expected = {name: tuple(v.shape) for name, v in build().state_dict().items()}
    except (TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{where}: its header describes no network: {error}") from error
    finally:
        counting.remove()
    wrong = differences(found, expected)
    if wrong:
        raise ValueError(f"{where}: entries differ from those of {config}: {'; '.join(wrong)}")


def read_header(path: str | Path) -> dict[str, Any]:
    """`config_type`, `config` and `card` of one of our checkpoints; the weights are not read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or make it again"
        ) from error
    if HEADER_KEY not in metadata:
        raise ValueError(
            f"{path}: no {HEADER_KEY!r} entry in its header: save_model did not write it"
        )
    header = _plain(metadata[HEADER_KEY])
    if not isinstance(header, dict) or not all(
        isinstance(header.get(name), kind)
        for name, kind in (("config_type", str), ("config", dict), ("card", dict))
    ):
        raise ValueError(
            f"{path}: its {HEADER_KEY!r} entry is no header of ours (config_type, config and card "
            "as JSON): fetch or make the file again"
        )
    return header


def _plain(text: str) -> Any:
    """What the JSON says; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Writes a temporary file beside the target, flushes it to disk and renames it.

    So a reader sees the old file or the new one, never a part of it. An OSError names the target.
    """
    with naming_file(path):
        _replace(path, content)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Gives errors of writing the file its name, and safetensors' own the system's number.

    The system itself names no file when a write fails, as on a full disk.
    """
    try:
        yield
    except SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    except OSError as error:
        if error.errno and error.strerror and error.filename is None:
            error.filename = str(path)
        raise


def _replace(path: Path, content: bytes) -> None:
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
    """The value of type `kind` (also a nested dataclass or a tuple) that `asdict` and JSON made
    `value` of.

    Absent fields take their defaults. Raises ValueError for a field that the dataclass lacks.
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
        if value is not None and len(choices) == 1:
            return from_plain(choices[0], value, where)
        return value
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_plain(part, item, where) for part, item in zip(kinds, value, strict=True))
    return value


def save_half(source: str | Path, target: str | Path) -> str:
    """Writes a checkpoint again with float16 weights, for shipping; returns its SHA-256 digest.

    Config and card stay; `load_model` makes a float32 network of it.
    """
    with safe_open(str(source), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    halved = {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    }
    content = save(halved, metadata={HEADER_KEY: json.dumps(read_header(source), sort_keys=True)})
    write_whole(Path(target), content)
    return hashlib.sha256(content).hexdigest()
