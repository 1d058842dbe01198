"""Files that the processes of one training leave for each other in its working folder; none is part
of the result.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.atomic import write_file

PROGRESS_FILE = "progress.json"  # steps done, of how many, a note
PARTIAL_FILE = "progress.partial"
MEETING_FILE = ".meeting"
STOP_FILE = ".stop"  # put there by whoever started the processes, to end them
# Config and card of the checkpoint to be: what a saved state needs to become one
CARD_FILE = ".card.json"


def remove_working_files(folder: Path) -> None:
    """Also those of an attempt that was killed."""
    for name in (PROGRESS_FILE, PARTIAL_FILE, MEETING_FILE, STOP_FILE, CARD_FILE):
        (folder / name).unlink(missing_ok=True)


def leave_card(folder: Path, config: Any, card: dict[str, Any]) -> None:
    """For `read_card`, before the first step."""
    write_file(folder / CARD_FILE, json.dumps({"config": asdict(config), "card": card}).encode())


def read_card(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and card of a training that is not finished. Raises FileNotFoundError if there is
    none.
    """
    found = json.loads((folder / CARD_FILE).read_text())
    return found["config"], found["card"]
