"""The scores that an evaluation or a scored folder of videos wrote, as one model's table."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.evaluation.scores import BASELINES, Cell
from stages.evaluation.tables import CLIP_COLUMNS, CLIPS_FILE, FRAMES_FILE, MEANS_FILE, VIDEOS
from storage.stores import store
from storage.stores.key import content_key
from storage.stores.results import Result

# Parameters of the evaluation that decide what some of its measures mean
MEASURED_WITH = ("depth_annotator", "tracker", "gaussian_draws")

ByClip = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """label: its name in the comparison. inputs: role -> `stage/key` of what it was scored on, and
    parameter -> what it was scored with (`MEASURED_WITH`).

    scores: of each cell the value of each clip, mean over seeds. frames: the same by frame.
    of_all: what is a number of all clips together, such as FVD. episodes: of each clip. result:
    that keeps its videos, None where they may be another's.
    """

    label: str
    store: str
    inputs: Mapping[str, str]
    scores: Mapping[Cell, ByClip]
    frames: Mapping[Cell, Mapping[int, ByClip]]
    of_all: Mapping[Cell, float]
    episodes: Mapping[str, str]
    result: Result | None

    @classmethod
    def read(cls, result: Result, label: str) -> "ScoreTable":
        """Raises ValueError for a result without scores by clip and episode."""
        ref = result.ref
        if CLIPS_FILE not in result.files:
            raise ValueError(
                f"{ref} holds no {CLIPS_FILE}: expected an evaluation, or a folder of videos that "
                "`roboscape score` scored"
            )
        path = result.file(CLIPS_FILE)
        rows = list(_rows(path))
        if "episode" not in (rows[0] if rows else {"episode"}):
            raise ValueError(
                f"{path} does not name the clips' episodes, as evaluations of older versions did "
                f"not: expected the columns {', '.join(CLIP_COLUMNS)}. `roboscape rerun "
                "evaluation` makes it again"
            )
        frames: dict[Cell, dict[int, dict[str, list[float]]]] = {}
        if FRAMES_FILE in result.files:
            for row in _rows(result.file(FRAMES_FILE)):
                at = frames.setdefault(_cell(row), {}).setdefault(int(row["frame"]), {})
                at.setdefault(row["clip"], []).append(float(row["value"]))
        scores: dict[Cell, dict[str, list[float]]] = {}
        for row in rows:
            scores.setdefault(_cell(row), {}).setdefault(row["clip"], []).append(
                float(row["value"])
            )
        manifest = store.read_manifest(ref)
        return cls(
            label=label,
            store=str(ref),
            inputs=manifest.inputs | _measured_with(manifest.parameters),
            scores={cell: _means(values) for cell, values in scores.items()},
            frames={c: {t: _means(v) for t, v in at.items()} for c, at in frames.items()},
            of_all={
                _cell(row): float(row["value"])
                for row in (_rows(result.file(MEANS_FILE)) if MEANS_FILE in result.files else ())
                if _cell(row) not in scores
            },
            episodes={row["clip"]: row["episode"] for row in rows},
            result=result,
        )

    @classmethod
    def read_all(cls, result: Result, label: str) -> list["ScoreTable"]:
        """One table for each variant that the result scored; most have just one."""
        table = cls.read(result, label)
        methods = list(dict.fromkeys(cell.method for cell in table.own()))
        if len(methods) < 2:
            return [table]
        return [table.of_method(method, f"{label} {method}") for method in methods]

    def of_method(self, method: str, label: str) -> "ScoreTable":
        """The method and the baselines, without other methods; clips are those that it has."""
        kept = (method, *BASELINES)
        scores = {cell: values for cell, values in self.scores.items() if cell.method in kept}
        clips = {
            clip for cell, values in scores.items() if cell.method == method for clip in values
        }
        return replace(
            self,
            label=label,
            scores=scores,
            frames={cell: values for cell, values in self.frames.items() if cell.method in kept},
            of_all={cell: value for cell, value in self.of_all.items() if cell.method in kept},
            episodes={clip: name for clip, name in self.episodes.items() if clip in clips},
            result=None,  # it keeps one video of a clip, of whichever variant
        )

    @classmethod
    def pooled(cls, tables: Sequence["ScoreTable"], label: str) -> "ScoreTable":
        """The mean of several seeds, clip by clip; of clips that all of them have."""
        first = tables[0]
        cells = [c for c in first.scores if all(c in table.scores for table in tables)]
        of_all = [c for c in first.of_all if all(c in table.of_all for table in tables)]
        frames = [c for c in first.frames if all(c in table.frames for table in tables)]
        return replace(
            first,
            label=label,
            store=", ".join(table.store for table in tables),
            scores={cell: _pooled([table.scores[cell] for table in tables]) for cell in cells},
            frames={
                cell: {
                    t: _pooled([table.frames[cell].get(t, {}) for table in tables])
                    for t in first.frames[cell]
                }
                for cell in frames
            },
            of_all={c: sum(table.of_all[c] for table in tables) / len(tables) for c in of_all},
        )

    def video(self, clip: str) -> Path | None:
        """The scored video of a clip (of the first seed); None where it was not kept."""
        name = f"{VIDEOS}/{clip}.mp4"
        if self.result is None or name not in self.result.files:
            return None
        return self.result.file(name)

    @property
    def clips(self) -> set[str]:
        return set(self.episodes)

    def own(self) -> Iterator[Cell]:
        """The cells of the model itself, not of baselines beside it."""
        return (cell for cell in self.scores if cell.method not in BASELINES)


def _measured_with(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Annotators by name and digest, also of their weights; without what is off."""
    found: dict[str, str] = {}
    for name in MEASURED_WITH:
        value = parameters.get(name)
        if isinstance(value, dict):
            # Videos have the clip's frames, whatever the annotator's rate for labels is
            counted = {field: v for field, v in value.items() if field != "annotation_rate_hz"}
            # Networks have the name of their weights
            called = value.get("name") or value["weights"]["name"]
            found[name] = f"{called} {content_key(counted)[:8]}"
        elif value:
            found[name] = str(value)
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(**{name: row[name] for name in Cell._fields})


def _pooled(values: Sequence[ByClip]) -> ByClip:
    clips = [clip for clip in values[0] if all(clip in each for each in values)]
    return {clip: sum(each[clip] for each in values) / len(values) for clip in clips}


def _means(values: Mapping[str, list[float]]) -> ByClip:
    return {clip: sum(found) / len(found) for clip, found in values.items()}
