"""`roboscape export`: clips as prompts for other models, videos in the layout of a benchmark."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.console import Console

from model.value_range import ValueRange
from pipeline.cli.clips import clips_of
from pipeline.cli.compare import scored
from pipeline.cli.progress_bar import progress_bar
from pipeline.lineage.clips import find_clips
from pipeline.orchestration.journal import find_journal, names_run
from pipeline.settings import Settings
from stages.batches import spread_rows, usable_rows
from stages.evaluation.scores import BASELINES
from stages.evaluation.tables import CLIPS_FILE, VIDEOS
from stages.exporting.prompts import write_prompts
from stages.exporting.worldarena import write_worldarena
from stages.scoring.matching import match
from stages.scoring.reader import VideoReader
from stages.scoring.survey import survey
from stages.scoring.videos import VideoFile, default_name, read_video_set
from storage.atomic import new_folder
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_result
from storage.stores.rows import ClipRows

NAME = re.compile(r"[\w.-]*\w[\w.-]*")
SPLIT = "val"  # the evaluation's default, too
SCORED = ("evaluation", "scoring")  # the stages that note which clips they scored


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Arguments of `export worldarena`: videos at a place, or those that a result has kept."""

    what: str
    clips: str | None = None
    name: str | None = None
    rate_hz: float | None = None
    value_range: ValueRange | None = None
    skip_bad: bool = False


def export_prompts(
    what: str,
    folder: Path,
    split: str | None,
    n_clips: int | None,
    settings: Settings,
    out: Console,
) -> None:
    """Writes the prompts of a store's held-out clips, or of those that an evaluation scored.

    Raises LookupError for a store that is not there, ValueError if no clip is left.
    """
    clips, rows, which = clips_to_predict(what, split, settings)
    chosen = spread_rows(rows, n_clips or len(rows))
    with new_folder(folder.absolute()) as temp, progress_bar("export", out) as progress:
        write_prompts(temp, clips, chosen, progress)
    out.print(f"{len(chosen)} clips of {clips.ref}, {which}: {folder / 'README.txt'}", markup=False)


def clips_to_predict(
    what: str, split: str | None, settings: Settings
) -> tuple[ClipRows, Int[np.ndarray, " n"], str]:
    """The clips, their rows, and how they were chosen, in words."""
    clips = clips_of(what, settings)
    result = scored_result(what, settings) if split is None else None
    if result is None:
        rows = usable_rows({"discover": clips.index, "clip": clips}, split or SPLIT)
        return clips, rows, f"of split '{split or SPLIT}'"
    with result.file(CLIPS_FILE).open(newline="") as lines:
        ids = {line["clip"] for line in csv.DictReader(lines)}
    rows = [row for row, clip_id in enumerate(clips.clip_ids) if clip_id in ids]
    return clips, np.array(rows), f"those that {result.ref} scored"


def scored_result(what: str, settings: Settings) -> Result | None:
    """The evaluation or scored videos that this names, a run's evaluation; None for others.

    Raises IncompleteStore for one that is not made to its end.
    """
    if names_run(what):
        find_journal(settings.runs, what)  # raises if there is no such run, or several
    try:
        ref = scored(what, settings)[0]
    except LookupError:
        if names_run(what):
            return None  # a run without an evaluation still has clips
        raise
    if ref.stage not in SCORED:
        return None
    result = open_result(ref)
    return result if CLIPS_FILE in result.files else None


def export_worldarena(videos: Videos, folder: Path, settings: Settings, out: Console) -> None:
    """Writes videos in WorldArena's layout.

    Raises LookupError for a store that is not there, ValueError for videos that cannot be used.
    """
    place, clips, name = place_of(videos, settings)
    rows = {"discover": clips.index, "clip": clips}
    reader = VideoReader(
        clips=clips,
        rate_hz=clips.rate_hz,
        video_rate_hz=videos.rate_hz,
        value_range=videos.value_range,
    )
    target = folder.absolute()
    with new_folder(target) as temp, progress_bar("export", out) as progress:
        matched = match(read_video_set(place), rows)
        by_model(matched.by_row, name)  # refuses names and seeds before the videos are read
        found = survey(matched, reader, progress, skip_bad=videos.skip_bad)
        models = by_model(found.by_row, name)
        write_worldarena(temp, target, models, reader, clips, progress)
    left = f", {len(found.bad)} bad ones left out" if found.bad else ""
    lost = f", {len(matched.no_clip)} of no clip" if matched.no_clip else ""
    what = f"{len(found.good)} videos of {', '.join(models)}{left}{lost}"
    out.print(f"{what}: {folder / 'summary.json'}", markup=False)


def place_of(videos: Videos, settings: Settings) -> tuple[Path, ClipRows, str]:
    """Where the videos are, their clips, and the model's name.

    A path that exists is one, whichever store's key begins with the same letters.
    """
    path = Path(videos.what)
    if path.exists() and not in_store(path):
        return path, clips_of(videos.clips or "clip", settings), videos.name or default_name(path)
    result = scored_result(videos.what, settings)
    kept = [] if result is None else [n for n in result.files if n.startswith(f"{VIDEOS}/")]
    if result is None or not kept:
        raise LookupError(
            f"'{videos.what}' has kept no videos: expected an evaluation, a run with one, what "
            "`roboscape score` made, or a folder of videos"
        )
    require_one_model(result)
    clips = find_clips(videos.clips or str(result.ref), result.ref.root)
    files = [result.file(name) for name in kept]  # fetched from an object store, and checked
    return files[0].parent, clips, videos.name or name_of(result.ref)


def in_store(path: Path) -> bool:
    folders = (path.absolute(), *path.absolute().parents)
    return any((folder / "manifest.json").exists() for folder in folders)


def require_one_model(result: Result) -> None:
    """Raises ValueError for variants: of each clip one video is kept, of whichever variant."""
    with result.file(CLIPS_FILE).open(newline="") as lines:
        methods = {line["method"] for line in csv.DictReader(lines)} - {*BASELINES}
    if len(methods) > 1:
        raise ValueError(
            f"{result.ref} scored {len(methods)} models ({', '.join(sorted(methods))}) and kept "
            "one video of a clip: expected one model. Export from the folder or the CSV that it "
            "was made from"
        )


def name_of(ref: StoreRef) -> str:
    return str(store.read_manifest(ref).parameters.get("method") or f"roboscape-{ref.key[:8]}")


def by_model(
    by_row: Mapping[int, Sequence[VideoFile]], name: str
) -> dict[str, dict[int, VideoFile]]:
    """A model for each variant. Raises ValueError for two videos of a clip, and a name that no
    folder should have.
    """
    models: dict[str, dict[int, VideoFile]] = {}
    for row, videos in by_row.items():
        for video in videos:
            model = f"{name}-{video.variant}" if video.variant else name
            if not NAME.fullmatch(model):
                raise ValueError(
                    f"name '{model}': it becomes a folder's, so expected letters, digits, '.', "
                    "'_' and '-': give another one with --name"
                )
            if row in models.setdefault(model, {}):
                raise ValueError(
                    f"clip {video.clip_id} has several videos of {model}, one for each seed: "
                    "expected one, keep the lines of one seed in the CSV"
                )
            models[model][row] = video
    return models
