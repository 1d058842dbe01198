"""Files by which the processes of a training communicate; none is part of the result."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.atomic import write_file

PROGRESS_FILE = "progress.json"  # steps done, of how many, a note
PARTIAL_FILE = "progress.partial"
FOLDER_CHECK_FILE = ".folder_check"
STOP_FILE = ".stop"  # written by the launcher to end the processes
# Config and card of the checkpoint, with which a saved state can be exported as one
CARD_FILE = ".card.json"


def remove_working_files(folder: Path) -> None:
    """Deletes them, also those of a killed attempt."""
    for name in (PROGRESS_FILE, PARTIAL_FILE, FOLDER_CHECK_FILE, STOP_FILE, CARD_FILE):
        (folder / name).unlink(missing_ok=True)


def write_card(folder: Path, config: Any, card: dict[str, Any]) -> None:
    """Writes what `read_card` reads, before the first step."""
    write_file(folder / CARD_FILE, json.dumps({"config": asdict(config), "card": card}).encode())


def read_card(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and card of an unfinished training. Raises FileNotFoundError if there is none."""
    found = json.loads((folder / CARD_FILE).read_text())
    return found["config"], found["card"]
