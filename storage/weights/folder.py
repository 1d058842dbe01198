"""The weights folder: which published files are in it, and the digests noted in its `weights.json`.

Nothing here uses the network: `storage.weights.download` does, when the user asks for it.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from storage.atomic import make_folder, write_file
from storage.errors import WeightsError
from storage.weights.catalogue import PUBLISHED, PublishedWeights, find_published
from storage.weights.ref import WeightsRef

RECORDS = "weights.json"

# What a noted digest was compared with: the published one, the one that the server stated while it
# sent the file, or nothing (the first file that was seen is trusted).
Basis = Literal["published", "server", "first use"]


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """One entry of `weights.json`: what was found under a name, and when."""

    name: str
    file: str
    sha256: str
    size: int
    licence: str
    url: str
    date: str
    basis: Basis


def resolve_weights(
    name_or_path: str, folder: Path, report: Callable[[str], None] | None = None
) -> WeightsRef:
    """The published weights of that name, from `folder`, or else the file at that path.

    A file that is not noted yet is hashed and noted in `weights.json`, and `report` (default: a
    line on stderr) gets a message. A file given by its path has the name and licence of the
    published one that it equals, if any.

    Raises WeightsError if the file is missing (saying how to get it) or differs from the one
    published or noted; LookupError for what is neither a name nor a file.
    """
    if name_or_path not in {weights.name for weights in PUBLISHED}:
        return _resolve_path(name_or_path, folder)
    weights = find_published(name_or_path)
    path = folder / weights.file
    if not path.is_file():
        raise WeightsError(_missing(weights, folder))
    ref = WeightsRef.of(path, name=weights.name, licence=weights.licence)
    record = read_records(folder).get(weights.name)
    _check(weights, folder, ref.sha256, record)
    if record is None or record.sha256 != ref.sha256:
        found = f"weights '{weights.name}': {path} has the SHA-256 {ref.sha256}; "
        (report or _to_stderr)(found + _note(weights, folder, ref.sha256))
    return ref


def require_files(names: Iterable[str], folder: Path) -> None:
    """Raises WeightsError if files are missing, naming each and how to get it."""
    missing = [w for w in map(find_published, names) if not (folder / w.file).is_file()]
    if missing:
        raise WeightsError("\n".join(_missing(weights, folder) for weights in missing))


def how_to_get(weights: PublishedWeights, folder: Path) -> str:
    if weights.url:
        return (
            f"  `roboscape weights fetch {weights.name}` gets it from {weights.page}; "
            f"by hand: {weights.url}, put at {folder / weights.file}"
        )
    return (
        f"  There is no direct link: open {weights.page}, download {weights.file} and put it at "
        f"{folder / weights.file}; then `roboscape weights fetch {weights.name}` checks it"
    )


def read_records(folder: Path) -> dict[str, WeightsRecord]:
    """By name. Raises WeightsError if `weights.json` is damaged."""
    path = folder / RECORDS
    try:
        plain = json.loads(path.read_text())
        return {name: WeightsRecord(name=name, **entry) for name, entry in plain.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is damaged ({error}): repair it, or delete it, and the files beside it are "
            "noted again when they are next used"
        ) from error


def write_record(
    weights: PublishedWeights, folder: Path, sha256: str, basis: Basis
) -> WeightsRecord:
    """Notes the file in `weights.json`, in place of any earlier note under its name."""
    record = WeightsRecord(
        name=weights.name,
        file=weights.file,
        sha256=sha256,
        size=(folder / weights.file).stat().st_size,
        licence=weights.licence,
        url=weights.url or weights.page,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        basis=basis,
    )
    make_folder(folder)
    with (folder / f"{RECORDS}.lock").open("w") as lock:  # one process at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        plain = {}
        for name, entry in (read_records(folder) | {weights.name: record}).items():
            plain[name] = {k: v for k, v in asdict(entry).items() if k != "name"}
        write_file(folder / RECORDS, json.dumps(plain, indent=1).encode())
    return record


def _check(
    weights: PublishedWeights, folder: Path, sha256: str, record: WeightsRecord | None
) -> None:
    """Raises WeightsError if another digest is published or noted."""
    if weights.sha256:
        expected, source, again = weights.sha256, "is published", ""
    elif record:
        expected, source = record.sha256, f"was noted in {folder / RECORDS} on {record.date}"
        again = f" If its authors replaced it, delete its entry in {RECORDS}."
    else:
        return
    if sha256 != expected:
        raise WeightsError(
            f"weights '{weights.name}': {folder / weights.file} has the SHA-256 {sha256}, but "
            f"{expected} {source}. It is incomplete or another file: delete it and get it again."
            f"{again} To use it as it is, give its path instead of '{weights.name}'.\n"
            f"{how_to_get(weights, folder)}"
        )


def _missing(weights: PublishedWeights, folder: Path) -> str:
    terms = weights.licence + (", not for commercial use" if weights.non_commercial else "")
    return (
        f"weights '{weights.name}' ({weights.about}, {weights.size_text}, {terms}): there is no "
        f"file {folder / weights.file}\n{how_to_get(weights, folder)}"
    )


def _resolve_path(path: str, folder: Path) -> WeightsRef:
    if not Path(path).is_file():
        if os.sep in path or "." in path:
            raise WeightsError(f"there is no weights file {path}")
        find_published(path)  # raises
    ref = WeightsRef.of(path)
    noted = {record.sha256: name for name, record in read_records(folder).items()}
    for weights in PUBLISHED:
        same = weights.sha256 == ref.sha256 or noted.get(ref.sha256) == weights.name
        # Where no digest is published, the file's name decides: a licence too many does less harm
        # than one forgotten.
        if same or (not weights.sha256 and Path(path).name == weights.file):
            return replace(ref, name=weights.name, licence=weights.licence)
    return ref


def _note(weights: PublishedWeights, folder: Path, sha256: str) -> str:
    """Writes the record where the folder can be written; returns what to report."""
    basis: Basis = "published" if weights.sha256 else "first use"
    what = "as published" if weights.sha256 else "nothing to compare it with, so it is trusted"
    try:
        write_record(weights, folder, sha256, basis)
    except OSError as error:  # a shared folder, read-only for us
        return f"{what}, but not noted in {folder / RECORDS}: {error.strerror}"
    return f"{what}, and noted in {folder / RECORDS}"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
