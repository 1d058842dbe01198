"""The folder of a training's saved states: there while it runs, deleted when it is done."""

import shutil
from pathlib import Path

from model.training.checkpoint import read_header
from model.training.snapshots import DAMAGED

STATES = "states"


def finished(folder: Path, checkpoint: str) -> dict[str, float] | None:
    """The numbers of a training that an earlier attempt completed; None if there is none.

    Saved states are deleted last, so a checkpoint without them is complete.
    """
    if not (folder / checkpoint).exists() or (folder / STATES).exists():
        return None
    drop_states(folder)
    return read_header(folder / checkpoint)["card"]["numbers"]


def set_aside(folder: Path) -> list[str]:
    """Names of the saved states that were found damaged during this training, oldest first."""
    return sorted(path.stem for path in (folder / STATES).glob(f"*{DAMAGED}"))


def drop_states(folder: Path) -> None:
    """Deletes the saved states; renamed first, so that nothing resumes from half of them."""
    gone = folder / f"{STATES}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if (folder / STATES).exists():
        (folder / STATES).rename(gone)
        shutil.rmtree(gone)
