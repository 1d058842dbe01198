"""Scores of the pseudo labels of a data set against ground truth, beside their `label_quality`.

Only simulated episodes have ground truth (`<root>/ground_truth`). Without it the report says so.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge

from simulation.ground_truth import truth_beside
from stages.base import DatasetStage, InputResults, InputRows, Inputs, Progress, Resources
from stages.drawing.pictures import png_bytes, spread
from stages.label_quality.contact_sheet import COLUMNS, label_sheet
from stages.label_quality.labels import LABEL_ARRAYS, AnnotatorInfo, read_labels
from stages.label_quality.measures import MEASURES, all_flags, flag_names, flag_summary
from stages.label_quality.report import draw_clip, report
from stages.label_quality.truth_scores import LabelledClip, Scores, score_labels, true_labels
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class ScoreLabels(DatasetStage):
    """Writes `scores.json` (means), `label_scores.csv` (a row a clip), `labels.md`, `labels.png`.

    Scores are of `max_clips`; the number of flagged clips is of all.
    """

    # Where the data set is, with or without `ground_truth`
    root: str = field(metadata={"key": False})
    max_clips: Annotated[int, Ge(1)] = 64  # spread evenly over the index
    n_pictures: Annotated[int, Ge(1)] = COLUMNS  # with their truth they fill a page
    # How training selects active tracks; they follow `world_model.tracks`
    n_active: Annotated[int, Ge(1)] = field(default=64, metadata={"added": True})
    min_motion: Annotated[float, Ge(0)] = field(default=0.03, metadata={"added": True})

    name: ClassVar[str] = "label_scores"
    version: ClassVar[int] = 3
    inputs: ClassVar[Inputs] = {
        **LABEL_ARRAYS,
        "discover": ("task", "episode", "split"),
        "clip": ("rgb", "frame_index"),
        "label_quality": (*(measure.name for measure in MEASURES), "flags"),
    }
    resources: ClassVar[Resources] = Resources(memory_gb=2.0)

    def __post_init__(self) -> None:
        if self.max_clips < 1 or self.n_pictures < 1:
            raise ValueError(
                f"max_clips={self.max_clips}, n_pictures={self.n_pictures}: "
                "expected 1 or more of each"
            )

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        annotators = {role: AnnotatorInfo.of(rows[role]) for role in ("depth", "keypoints")}
        is_metric = annotators["depth"].units == "1/m"
        # Some clips, spread over the index: their scores, and pictures of a few
        chosen = choose_rows(rows, self.max_clips)
        shown = {chosen[i] for i in spread(len(chosen), self.n_pictures)}
        table, pictures = [], []
        for done, row in enumerate(chosen):
            clip = self._read(rows, row)
            quality = rows["label_quality"].read(self.inputs["label_quality"], row)
            truth = truth_beside(Path(self.root), clip.task, clip.episode)
            labels, scores = None, {}
            if truth is not None:
                labels = true_labels(clip, truth)
                scores = score_labels(
                    clip,
                    labels,
                    is_metric=is_metric,
                    n_active=self.n_active,
                    min_motion=self.min_motion,
                )
            table.append({**clip.names, **measured(quality), **scores})
            if row in shown:
                pictures.append(draw_clip(clip, labels, scores, quality, annotators))
            progress(done + 1, len(chosen))
        # Files
        means = measured_means(table)
        counts = {
            "clips": len(table),
            "clips_with_truth": sum("average_jaccard" in line for line in table),
            "clips_flagged": int((all_flags(rows["label_quality"]) > 0).sum()),
        }
        document = {**counts, "means": means}
        document |= {role: vars(annotator) for role, annotator in annotators.items()}
        write_table(out.path / "label_scores.csv", table)
        (out.path / "scores.json").write_text(json.dumps(document, indent=1))
        n_true = counts["clips_with_truth"]
        page = report(means, len(table), n_true, annotators, rows["label_quality"])
        (out.path / "labels.md").write_text(page)
        sheet = label_sheet(pictures, title="Labels", note=flag_summary(rows["label_quality"]))
        (out.path / "labels.png").write_bytes(png_bytes(sheet))
        return {name: float(count) for name, count in counts.items()} | means

    def _read(self, rows: Mapping[str, Rows], row: int) -> LabelledClip:
        index = rows["discover"].read(self.inputs["discover"], row)
        return LabelledClip(
            clip_id=rows["clip"].clip_ids[row],
            task=int(index["task"]),
            episode=int(index["episode"]),
            split=str(index["split"]),
            **rows["clip"].read(("frame_index",), row),
            **vars(read_labels(rows, row)),
        )


def measured(quality: Mapping[str, np.ndarray]) -> dict[str, float | str]:
    """A clip's quality for the table: the measures that are not NaN, and its flags by name."""
    values = {m.name: float(quality[m.name]) for m in MEASURES if not np.isnan(quality[m.name])}
    return {**values, "flags": " ".join(flag_names(int(quality["flags"])))}


def choose_rows(rows: Mapping[str, Rows], limit: int) -> list[int]:
    """At most `limit` rows with data in all stores, spread evenly; ValueError if there are none."""
    ok = np.flatnonzero(np.logical_and.reduce([store.ok for store in rows.values()]))
    if len(ok) == 0:
        counts = ", ".join(
            f"{int(store.ok.sum())} of {store.n} in '{role}'" for role, store in rows.items()
        )
        raise ValueError(
            f"no clip has both depth and keypoints ({counts}): look at the stages' rejected clips"
        )
    return [int(ok[i]) for i in spread(len(ok), limit)]


def measured_means(table: Sequence[Mapping[str, Any]]) -> Scores:
    """Means over the clips in which a number was measured."""
    numbers = [{k: v for k, v in line.items() if isinstance(v, float)} for line in table]
    names = dict.fromkeys(name for line in numbers for name in line)
    return {
        name: float(np.mean([line[name] for line in numbers if name in line])) for name in names
    }


def write_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """CSV; a cell is empty where nothing was measured."""
    names = list(dict.fromkeys(name for line in table for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for line in table:
            writer.writerow({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in line.items()})
