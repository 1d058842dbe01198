"""Files that the processes of one training leave for each other in its working folder; none is part of the result."""

from pathlib import Path

PROGRESS_FILE = "progress.json"  # steps done, of how many, a note
PARTIAL_FILE = "progress.partial"
MEETING_FILE = ".meeting"
STOP_FILE = ".stop"  # put there by whoever started the processes, to end them


def remove_working_files(folder: Path) -> None:
    """Also those of an attempt that was killed."""
    for name in (PROGRESS_FILE, PARTIAL_FILE, MEETING_FILE, STOP_FILE):
        (folder / name).unlink(missing_ok=True)
