"""Reads `task_info`: each episode's task, scene and labelled segments."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.sources.file_ref import FileRef, SourceError, faults_as

MAX_ID = 10**18  # of an episode or a task: fits the index's 64 bits


@dataclass(frozen=True)
class Segment:
    """Frames `[start_frame, end_frame)` of the episode (30 Hz in AGIBOT-World) with one action."""

    start_frame: int
    end_frame: int
    text: str
    skill: str


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """An episode's entry in `task_info`."""

    task_name: str
    scene: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """task: None if neither the file's name nor the entry says it. info: None if unreadable."""

    task: int | None
    episode: int
    info: EpisodeInfo | None


def read_task_info(path: Path) -> Iterator[Entry | SourceError]:
    """The file's entries, and what is wrong with it. Raises nothing for whatever the file holds."""
    try:
        with faults_as("corrupt_task_info", path, "a JSON list of episodes"):
            entries = json.loads(FileRef(path=path).read_bytes())
    except SourceError as fault:
        yield fault
        return
    number = path.stem.removeprefix("task_")
    task = int(number) if is_id(number) else None
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        item, episode = f"{path} entry {i}", None
        try:
            with faults_as("corrupt_task_info", item, "episode_id and label_info"):
                episode = _checked_id(entry["episode_id"])
                own = entry.get("task_id") if task is None else task
                own = None if own is None else _checked_id(own)
                yield Entry(task=own, episode=episode, info=_parse_info(entry))
        except SourceError as fault:
            if episode is not None:
                yield Entry(task=task, episode=episode, info=None)
            yield fault


def is_id(text: str) -> bool:
    """Whether a name is a number that the index can hold: no `²`, and not 30 digits."""
    return text.isascii() and text.isdigit() and int(text) < MAX_ID


def _checked_id(value: object) -> int:
    if not is_id(str(value)):
        raise ValueError(f"id {str(value)[:40]!r}, expected a whole number below 1e18")
    return int(str(value))


def _parse_info(entry: dict) -> EpisodeInfo:
    # Early files misspell the key.
    labels = entry.get("label_info") or entry.get("lable_info") or {}
    segments = []
    for s in labels.get("action_config") or ():
        start, end = int(s["start_frame"]), int(s["end_frame"])
        segments.append(Segment(start, end, _text(s, "action_text"), _text(s, "skill")))
    return EpisodeInfo(
        task_name=_text(entry, "task_name"),
        scene=_text(entry, "init_scene_text"),
        segments=tuple(segments),
    )


def _text(entry: dict, name: str) -> str:
    """JSON may hold half a surrogate pair, which no table can store."""
    return str(entry.get(name, "")).encode(errors="replace").decode()
