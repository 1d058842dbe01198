"""What commands check before they work: values of options, paths to write, the environment."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Interval

from pipeline.experiments.field_values import require
from pipeline.settings import Settings

Share = Annotated[float, Interval(ge=0, le=1)]
Hours = Annotated[float, Interval(ge=0, le=1e9)]
Processes = Annotated[int, Interval(ge=0, le=4096)]
Seed = Annotated[int, Ge(0)]
Frames = Annotated[int, Interval(ge=2, le=100_000)]
Count = Annotated[int, Interval(ge=1, le=10_000_000)]
Split = Literal["train", "val", "test"]
BACKENDS = ("ray", "serial")


def check_options(**options: tuple[Any, Any]) -> None:
    """Raises ValueError naming the first option whose value does not fit its annotation.

    options: name, with `_` for `-` -> (value, annotation); a value of None is an option not given.
    """
    for name, (value, hint) in options.items():
        if value is not None:
            require(value, hint, f"--{name.replace('_', '-')}")


def check_backend(backend: str | None) -> None:
    if backend is not None and backend not in BACKENDS:
        raise ValueError(
            f"backend '{backend}': expected 'ray' or 'serial', from --backend or ROBOSCAPE_BACKEND"
        )


def check_file_to_write(path: Path | None, what: str) -> None:
    """Raises ValueError if no file can be written at this path, before the work that fills it."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{what} {path}: found a folder, expected the name of a file to write")
    if not path.absolute().parent.is_dir():
        raise ValueError(
            f"{what} {path}: there is no folder {path.absolute().parent}; make it first"
        )
    check_writable(path.absolute().parent, what)


def check_folder_to_write(path: Path | None, what: str) -> None:
    """Raises ValueError if there can be no folder at this path."""
    if path is None:
        return
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"{what} {path}: {there} is a file, expected a folder or a new name")
    check_writable(there, what)


def check_writable(folder: Path, what: str) -> None:
    # A file system may be read-only, or know no new files (/proc), whatever its permissions say
    read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    if read_only or not os.access(folder, os.W_OK | os.X_OK) or folder.is_relative_to("/proc"):
        raise ValueError(
            f"{what}: no file can be made in {folder}, expected a folder that you may write to; "
            "choose another one, or change its permissions"
        )


def check_environment(settings: Settings) -> None:
    """Raises ValueError naming the environment variable that holds what no command can use."""
    folders = {
        "ROBOSCAPE_HOME": str(settings.home),
        "ROBOSCAPE_STORES": settings.stores_root,
        "ROBOSCAPE_WEIGHTS": settings.weights_folder,
        "ROBOSCAPE_CACHE": os.environ.get("ROBOSCAPE_CACHE", ""),
    }
    for name, text in folders.items():
        if "\0" in text or (text and "://" not in text and not may_be_folder(Path(text))):
            raise ValueError(f"{name}={text}: found a file there, expected a folder")
        scheme = text.partition("://")[0] if "://" in text else ""
        if scheme and (name != "ROBOSCAPE_STORES" or scheme not in ("s3", "memory")):
            wanted = (
                "a local folder or s3://bucket/prefix"
                if name == "ROBOSCAPE_STORES"
                else ("a local folder")
            )
            raise ValueError(f"{name}={text}: expected {wanted}, found '{scheme}://'")
    for name, text in (
        ("HF_ENDPOINT", settings.hub),
        ("PREFECT_API_URL", settings.prefect_url or ""),
    ):
        if text and not is_web_address(text):
            raise ValueError(f"{name}={text}: expected an address such as http://HOST:PORT")
    if settings.stall_s <= 0:
        raise ValueError(f"ROBOSCAPE_STALL_S={settings.stall_s:g}: expected seconds above 0")


def may_be_folder(path: Path) -> bool:
    """Whether it is a folder, or nothing is in the way of making one."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return there.is_dir()


def is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
