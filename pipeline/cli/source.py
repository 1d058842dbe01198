"""The digests of a data set's files, with a progress bar: the first time takes long."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.orchestration.plan import source_of
from pipeline.orchestration.progress import StageProgress
from pipeline.settings import Settings
from storage.sources.agibot.tree import source_files


def digest_source(request: dict[str, Any], settings: Settings) -> None:
    """Digests the files of a run's episodes; they are remembered, so what follows is quick."""
    # What is wrong with the source is reported by what follows, too
    with StageProgress("source files") as progress, suppress(ValueError, OSError):
        source_files(Path(source_of(request, settings)), progress)
