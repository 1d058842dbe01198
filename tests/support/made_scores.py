"""Evaluations as `roboscape compare` reads them, with scores that a test chooses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.evaluation.columns import mean_scores
from stages.evaluation.scores import CAMERA, COPY, FRAME, FREE, MODEL, Cell, ScoredClip
from stages.evaluation.tables import (
    CLIPS_FILE,
    FRAMES_FILE,
    MEANS_FILE,
    ClipNames,
    clips_csv,
    frames_csv,
    metrics_csv,
)
from storage.stores import store
from storage.stores.key import content_key
from storage.stores.records import Manifest, StoreRef
from storage.stores.results import Result, open_result, open_writer

N_FRAMES = 4
COPIED = {"psnr": 15.0, "ssim": 0.5}


def made_evaluation(
    root: Path,
    psnr: Mapping[str, float],
    episodes: Mapping[str, str],
    *,
    method: str = MODEL,
    inputs: Mapping[str, str] = {"clip": "clip/0"},
    parameters: Mapping[str, object] = {},
    of_all: Mapping[Cell, float] = {},
) -> Result:
    """psnr: of each clip, falling by 1 dB a frame; SSIM is a hundredth of it."""
    stage = "evaluation" if method == MODEL else "score"
    key = content_key([dict(psnr), method, dict(inputs), dict(parameters), list(of_all.values())])
    ref = StoreRef.at(str(root), stage, key)
    if store.exists(ref):
        return open_result(ref)
    store.create(
        ref,
        Manifest(
            stage=stage,
            key=key,
            kind="result",
            version=1,
            parameters=dict(parameters),
            inputs=dict(inputs),
        ),
    )
    writer = open_writer(ref)
    clips = [scored_clip(clip, value, method) for clip, value in psnr.items()]
    names = ClipNames(
        ids=list(psnr), episodes=[episodes[clip] for clip in psnr], others=[""] * len(psnr)
    )
    (writer.path / "tables").mkdir()
    (writer.path / CLIPS_FILE).write_bytes(clips_csv(names, clips))
    (writer.path / FRAMES_FILE).write_bytes(frames_csv(names, clips))
    means = mean_scores([clip.scores for clip in clips]) | of_all
    (writer.path / MEANS_FILE).write_bytes(metrics_csv(means))
    writer.finish({})
    return open_result(ref)


def scored_clip(clip: str, psnr: float, method: str) -> ScoredClip:
    by_method: dict[str, dict[str, float]] = {
        method: {"psnr": psnr, "ssim": psnr / 100},
        COPY: COPIED,
    }
    scores = {
        Cell(FREE, CAMERA, FRAME, who, metric): value
        for who, values in by_method.items()
        for metric, value in values.items()
    }
    steps = [N_FRAMES / 2 - 1 - t for t in range(N_FRAMES - 1)]
    by_frame = {
        cell: falling(value, steps if cell.metric == "psnr" else [0] * len(steps))
        for cell, value in scores.items()
    }
    return ScoredClip(clip_id=clip, scores=scores, by_frame=by_frame)


def falling(value: float, steps: Sequence[float]) -> list[float]:
    return [value + step for step in steps]
