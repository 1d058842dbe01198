"""Trainings of a second, and ways to stop them, for the tests of the training stages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from small_stores import new_result, opened, quiet, square_clips, write_clips, write_index

from model.magvit2.config import MagvitConfig
from model.training.loop import TrainConfig
from model.world.config import tiny as tiny_world
from stages.tokenizer.train import TrainTokenizer
from stages.training.log import LOG_FILE, LogRow, read_log
from stages.training.run import RunConfig
from stages.world_model.train import TrainWorldModel
from stages.world_model.training_clips import TrackConfig
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_result, open_writer

SPLITS = ["train", "val", "train", "train", "test", "train", "train", "val"]
REJECTED = 3  # a row of `train` that no store of clips holds
TRAIN_IDS, VAL_IDS = {"clip000", "clip002", "clip005", "clip006"}, {"clip001", "clip007"}
GRID = (4, 4)  # of frames of 32 px in cells of 8

TOKENIZER = MagvitConfig(
    base_channels=8,
    channel_multipliers=(1, 2),
    n_res_blocks=1,
    n_mid_blocks=1,
    norm_groups=4,
    stem_patch=4,
)
WORLD = tiny_world(n_layers=1, n_heads=1, d_model=16, d_action=8, grid=GRID)
FEW = TrainConfig(steps=5, warmup_steps=2, learning_rate=3e-3)

Stores = dict[str, StoreRef]


def make_stores(root: Path) -> Stores:
    """Index and clips, their depth and keypoints, and tokens drawn at random that name a tokenizer
    for each source.
    """
    index, arrays = write_index(root, SPLITS), square_clips(len(SPLITS))
    stores = {"discover": index}
    for name, of_clip in arrays.items():
        stores[name] = write_clips(index, name, of_clip, rejected=(REJECTED,))
    flags = {"flags": np.zeros(len(SPLITS), np.uint8)}
    stores["label_quality"] = write_clips(index, "label_quality", flags, rejected=(REJECTED,))
    for i, source in enumerate(("rgb", "depth")):
        ids = np.random.default_rng(i).integers(0, 2**18, (len(SPLITS), 16, *GRID)).astype(np.int32)
        made_by = {
            "tokenizer": StoreRef.at(str(root), f"{source}_tokenizer", f"0123456789abcde{i}").uri
        }
        name = f"{source}_tokens"
        stores[name] = write_clips(index, name, {name: ids}, rejected=(REJECTED,), inputs=made_by)
    return stores


def tokenizer_stage(**changes: Any) -> TrainTokenizer:
    """Four images of 32 px a step; saved every second step."""
    stage = TrainTokenizer(
        source="rgb", model=TOKENIZER, training=FEW, clips_per_batch=2, frames_per_clip=2,
        n_val_clips=2, watch=RunConfig(save_every=2), device="cpu",
    )  # fmt: skip
    return replace(stage, **changes)


def world_stage(**changes: Any) -> TrainWorldModel:
    """Two clips of 16 frames x 16 tokens a step; saved every second step."""
    stage = TrainWorldModel(
        model=WORLD, training=FEW, tracks=TrackConfig(n_active=8), clips_per_batch=2, n_val_clips=2,
        watch=RunConfig(save_every=2), device="cpu",
    )  # fmt: skip
    return replace(stage, **changes)


def rows_of(stage: TrainTokenizer | TrainWorldModel, stores: Stores) -> Stores:
    return {role: stores[role] for role in stage.inputs}


class Killed(BaseException):
    """As sudden as a kill, inside this process: no `except Exception` sees it."""


def kill_at(step: int) -> Callable[..., None]:
    """Progress that ends the training when `step` is done."""

    def progress(done: int, total: int, note: str = "") -> None:
        if done == step:
            raise Killed

    return progress


def attempt(stage, ref: StoreRef, stores: Stores, progress: Callable[..., None] = quiet) -> Result:
    """Runs a stage into its result, resuming what an earlier attempt left there."""
    writer = open_writer(ref)
    try:
        writer.finish(stage.run(opened(rows_of(stage, stores)), {}, writer, progress))
    finally:
        writer.close()
    return open_result(ref)


def train_stage(
    root: Path, stage, stores: Stores, *, run: str = "", kills: tuple[int, ...] = ()
) -> Result:
    """The stage's result, after these kills. `run` keeps runs of one stage apart."""
    ref = new_result(
        root,
        stage.name,
        [repr(stage), {role: ref.uri for role, ref in rows_of(stage, stores).items()}, run],
    )
    for step in kills:
        try:
            attempt(stage, ref, stores, kill_at(step))
        except Killed:
            continue
        raise AssertionError(f"step {step} was never reported")
    return attempt(stage, ref, stores)


def log_of(result: Result) -> list[LogRow]:
    return without_seconds(read_log(result.file(LOG_FILE)))


def without_seconds(log: list[LogRow]) -> list[LogRow]:
    """The log but for the one column that no two runs share."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in log]
