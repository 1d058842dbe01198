"""Tokens, point tracks and actions of clips -> a trained world model.

RoboScape (arXiv:2506.23135), section 3. Files of the result:

    world_model.safetensors         weights, config, and a card with the action statistics and the
                                    keys of the data and of the tokenizers
    losses.csv, losses.png          every part of the loss at every step
    training.md, throughput.md      what it started from, what it learned, how fast
    active_tracks.csv               active tracks of each clip, and the camera's share of the motion
    best_world_model.safetensors    the weights with the least held-out loss, unless they are the
                                    last; only with `RunConfig.validate_every`
    rollouts/, tensorboard/         where `RunConfig` asks for them
"""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Int

from model.training.checkpoint import save_model
from model.training.device import DeviceName, pick_device, step_generator
from model.training.loop import TrainConfig, TrainingStopped
from model.training.parallel import ALONE, Parallel, ParallelConfig, Workers
from model.training.peak_flops import measure_peak
from model.world.batch import ActionStats, WorldBatch
from model.world.config import LossConfig, MaskingConfig, SamplingConfig, WorldModelConfig
from model.world.dual_branch import Block, DualBranchWorldModel, parameter_counts
from model.world.flops import training_flops
from model.world.losses import world_loss_fn
from stages.base import (
    InputResults,
    InputRows,
    Inputs,
    LivePage,
    ParallelStage,
    Progress,
    Resources,
)
from stages.batches import spread_rows
from stages.clip_choice import needs_labels
from stages.flags import check_names
from stages.label_quality.measures import FLAGS as LABEL_FLAGS
from stages.networks import new_or_started
from stages.training.disk_use import parameter_count, training_use
from stages.training.live import live_page
from stages.training.log import summary
from stages.training.mfu import Meter
from stages.training.prepared_rows import CACHE_BYTES, PreparedRows
from stages.training.result import start_card, write_training
from stages.training.run import RunConfig, TrainingRun
from stages.training.states import finished
from stages.training.working_files import remove_working_files, write_card
from stages.world_model.clip_order import Order
from stages.world_model.data import (
    ACTIVE_FILE,
    WORLD_MODEL_FILE,
    tokenizer_keys,
)
from stages.world_model.sample_rollout import CLIPS, SampleRollout, decoders_of
from stages.world_model.shuffling import Shuffled, partners
from stages.world_model.training_clips import STATS_CLIPS, TrackConfig, TrainingClips
from storage.atomic import write_file
from storage.stores.key import parameters
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef

BEST_FILE, PREPARED = "best_world_model.safetensors", "prepared"
# Added to the error of a training that NaN or a loss spike stopped: the rate is part of its key
RESUME_HINT = (
    "Another learning_rate makes another result, whose training starts again: to continue from a "
    "saved state of this one, write it as a checkpoint with `roboscape checkpoint` and set "
    "world_model.start_from to that file."
)
TITLE = "World model"
N_VAL_NOISE = 4  # held-out losses are means over this many fixed draws of masks and replacements
VALIDATION_ROLE = 2  # keeps their noise apart from that of training


@dataclass(frozen=True, kw_only=True)
class WorldData:
    """The clips of one training."""

    used: Int[np.ndarray, " n"]  # rows to train on
    stats: ActionStats
    prepared: PreparedRows  # of `used`
    held_out: list[WorldBatch]


@dataclass(frozen=True, kw_only=True)
class TrainWorldModel(ParallelStage):
    """Trains on the `train` split and measures the same losses on clips of the `val` split.

    The outcome does not depend on the number of `workers`, but for rounding: `resources` are those
    of one worker, `clips_per_batch` counts the clips of all. The pipeline or torchrun (see
    `stages.world_model.torchrun`) starts several.
    """

    model: WorldModelConfig
    training: TrainConfig
    loss: LossConfig = field(default_factory=LossConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    tracks: TrackConfig = field(default_factory=TrackConfig)
    clips_per_batch: Annotated[int, Ge(1)] = 8
    n_val_clips: Annotated[int, Ge(1)] = 16
    drop_flagged: bool = True  # leaves out clips that stage `label_quality` flags
    # Leaves out clips with one of these flags of the recording or the labels (`stages.flags`)
    drop_flags: tuple[str, ...] = field(default=(), metadata={"added": True})
    # For studies: trains on the clips of so many episodes (0: all), in this order
    n_episodes: Annotated[int, Ge(0)] = field(default=0, metadata={"added": True})
    order: Order = field(default="random", metadata={"added": True})
    # A control for studies: training clips get the depth tokens or the actions of another one
    shuffled: Shuffled = field(default="none", metadata={"added": True})
    start_from: WeightsRef | None = None  # a checkpoint, whose action statistics are kept
    watch: RunConfig = field(default=RunConfig(), metadata={"key": False})
    workers: Annotated[int, Interval(ge=1, le=4096)] = field(default=1, metadata={"key": False})
    parallel: ParallelConfig = field(default=ParallelConfig(), metadata={"key": False})
    # None: a GPU where there is one
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False}
    )

    name: ClassVar[str] = "world_model"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_names("world_model.drop_flags", self.drop_flags)

    @property
    def dropped_flags(self) -> tuple[str, ...]:
        """All flags whose clips are left out."""
        return tuple(dict.fromkeys((LABEL_FLAGS if self.drop_flagged else ()) + self.drop_flags))

    @property
    def clips(self) -> TrainingClips:
        return TrainingClips(
            model=self.model,
            training=self.training,
            tracks=self.tracks,
            clips_per_batch=self.clips_per_batch,
            n_val_clips=self.n_val_clips,
            dropped_flags=self.dropped_flags,
            n_episodes=self.n_episodes,
            order=self.order,
            shuffled=self.shuffled,
            start_from=self.start_from,
        )

    @property
    def inputs(self) -> Inputs:
        return {
            "discover": ("split", *(("task", "episode") if self.n_episodes else ())),
            "rgb_tokens": ("rgb_tokens",),
            "depth_tokens": ("depth_tokens",),
            "keypoints": ("tracks", "visible"),
            "clip": ("rgb", "actions", "flags"),
            **({"label_quality": ("flags",)} if needs_labels(self.dropped_flags) else {}),
        }

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        """The result of training in this process alone."""
        return self.work(rows, out.path, progress, ALONE)

    def check_workers(self, n: int) -> None:
        """Raises ValueError if a batch cannot be shared evenly."""
        if n < 1 or self.clips_per_batch % n:
            raise ValueError(
                f"{self.name}: {n} workers cannot share clips_per_batch={self.clips_per_batch} "
                "evenly; choose a multiple of the number of workers, so that the batch stays the "
                "same for any number of them"
            )

    def work(
        self, rows: Mapping[str, Rows], folder: Path, progress: Progress, workers: Workers
    ) -> dict[str, float]:
        """The result's numbers, after loading, training and writing; see `ParallelStage.work`."""
        self.check_workers(workers.n)
        # An attempt that was killed before its seal may have finished the training
        before = finished(folder, WORLD_MODEL_FILE) if workers.is_first else None
        if numbers := workers.broadcast(before):
            if workers.is_first:
                remove_working_files(folder)
            return numbers
        device = pick_device(self.device)
        # The model first, so that a wrong `start_from` is reported at once
        model = self.build().to(device)
        data = self.load(rows, folder, progress, workers)
        run = self.training_run(model, rows, data, folder, progress, workers)
        try:
            log = run.finish()
        except TrainingStopped as stopped:
            raise type(stopped)(f"{stopped} {RESUME_HINT}") from stopped
        numbers = summary(log) | parameter_numbers(model)
        if workers.is_first:
            self.write_result(model, rows, data, run, numbers, folder)
        workers.barrier()
        return numbers

    def load(
        self, rows: Mapping[str, Rows], folder: Path, progress: Progress, workers: Workers
    ) -> WorldData:
        """The clips to train on, prepared once for all epochs, and those to measure on."""
        used = self.clips.training_rows(rows)
        stats = self.clips.action_stats(rows["clip"], used)
        if workers.is_first:
            card = {**start_card(self.start_from), **self.card(rows, stats), "numbers": {}}
            write_card(folder, self.model, card)

        def report(done: int, total: int) -> None:
            progress(0, self.training.steps, f"preparing clips: {done} of {total}")

        other = partners(used, self.training.seed) if self.shuffled != "none" else {}
        prepared = PreparedRows(
            lambda chosen: self.clips.prepare(rows, stats, chosen, other),
            used,
            folder=folder / PREPARED,
            workers=workers,
            on_progress=report,
        )
        held_out = self.clips.held_out(rows, stats)
        return WorldData(used=used, stats=stats, prepared=prepared, held_out=held_out)

    def training_run(
        self,
        model: DualBranchWorldModel,
        rows: Mapping[str, Rows],
        data: WorldData,
        folder: Path,
        progress: Progress,
        workers: Workers,
    ) -> TrainingRun:
        device = next(model.parameters()).device
        sample = None
        if self.watch.rollout_every and workers.is_first:
            sample = self.sample(rows, data.held_out[0], device)
        return TrainingRun(
            model=model,
            loss_fn=world_loss_fn(self.loss, self.masking),
            batch_at=self.clips.batches(rows, data.prepared, data.used, workers),
            config=self.training,
            watch=self.watch,
            folder=folder,
            progress=progress,
            validate=lambda: self.validate(model, [batch.to(device) for batch in data.held_out]),
            parallel=Parallel(
                workers=workers,
                config=self.parallel,
                block=Block,
                all_trained=self.loss.depth > 0 or not self.model.depth_branch,
            ),
            meter=self.meter(rows, device, workers),
            sample=sample,
        )

    def write_result(
        self,
        model: DualBranchWorldModel,
        rows: Mapping[str, Rows],
        data: WorldData,
        run: TrainingRun,
        numbers: dict[str, float],
        folder: Path,
    ) -> None:
        """Writes the result's files, then deletes what only the training needed."""
        card = write_training(
            folder / WORLD_MODEL_FILE,
            model.cpu(),
            self.model,
            title=TITLE,
            log=run.log,
            numbers=numbers,
            start_from=self.start_from,
            card=self.card(rows, data.stats),
            clips=self.clips.text(rows),
        )
        active = active_table(data.prepared, rows["keypoints"], spread_rows(data.used, STATS_CLIPS))
        write_file(folder / ACTIVE_FILE, active)
        if best := run.best():
            best.load_weights(model)
            save_model(folder / BEST_FILE, model, self.model, card=card | {"best": best.about})
        shutil.rmtree(folder / PREPARED, ignore_errors=True)
        remove_working_files(folder)
        run.clean_up()

    def disk_use(self, n_clips: int) -> DiskUse:
        n_parameters = parameter_count(lambda: DualBranchWorldModel(self.model))
        use = training_use(n_parameters, self.training, self.watch, keeps_best=True)
        prepared = n_clips * self.prepared_bytes()
        in_memory = prepared <= CACHE_BYTES and self.workers == 1
        return replace(use, working=use.working + (0 if in_memory else prepared))

    def prepared_bytes(self) -> int:
        """About what `prepare` makes of a clip."""
        m, n_active = self.model, self.tracks.n_active
        tokens = 2 * m.n_frames * m.n_cells * 4
        actions = m.n_frames * m.action_substeps * m.action_dim * 4
        return tokens + actions + n_active * (m.n_frames * (2 * 4 + 1) + 4) + 64

    def live_page(self, folder: Path) -> LivePage | None:
        return live_page(folder, TITLE)

    def meter(self, rows: Mapping[str, Rows], device: torch.device, workers: Workers) -> Meter:
        n_frames = rows["rgb_tokens"].spec("rgb_tokens").shape[0]
        dtype = torch.bfloat16 if self.training.precision == "bfloat16" else torch.float32
        return Meter(
            clips_per_step=self.clips_per_batch * self.training.grad_accum_steps,
            tokens_per_clip=n_frames * self.model.n_cells * len(self.model.branches),
            flops_per_clip=training_flops(self.model, self.masking, n_frames),
            n_workers=workers.n,
            peak=measure_peak(device, dtype),
        )

    def sample(
        self, rows: Mapping[str, Rows], batch: WorldBatch, device: torch.device
    ) -> SampleRollout:
        return SampleRollout(
            batch=batch.first(CLIPS).to(device),
            decoders=decoders_of(rows, device),
            seed=self.training.seed,
            sampling=SamplingConfig(),
        )

    # Model

    def build(self) -> DualBranchWorldModel:
        """A new network, or that of `start_from`; raises ValueError if its config differs."""
        return new_or_started(
            DualBranchWorldModel, self.model, self.start_from, self.training.seed, self.name
        )

    @torch.no_grad()
    def validate(self, model: DualBranchWorldModel, batches: list[WorldBatch]) -> dict[str, float]:
        """Mean losses over the held-out clips, under the same masks every time."""
        loss, sums = world_loss_fn(self.loss, self.masking), dict[str, float]()
        for i, batch in enumerate(batches):
            for draw in range(N_VAL_NOISE):
                noise = step_generator(self.training.seed, i * N_VAL_NOISE + draw, VALIDATION_ROLE)
                for name, value in loss(model, batch, noise).items():
                    share = value.item() * len(batch.clip_ids) / N_VAL_NOISE
                    sums[name] = sums.get(name, 0.0) + share
        n_clips = sum(len(batch.clip_ids) for batch in batches)
        return {name: value / n_clips for name, value in sums.items()}

    def card(self, rows: Mapping[str, Rows], stats: ActionStats) -> dict[str, Any]:
        """What the checkpoint says about its data, so that it can be used without other files."""
        return parameters(
            {
                "action_mean": stats.mean.tolist(),
                "action_std": stats.std.tolist(),
                "data": {role: str(store.ref) for role, store in rows.items()},
                "tokenizers": tokenizer_keys(rows),
                "training": self.training,
                "loss": self.loss,
                "masking": self.masking,
                "tracks": self.tracks,
            }
        )


def parameter_numbers(model: DualBranchWorldModel) -> dict[str, float]:
    """Parameter counts of the network, of each branch and of the layers that fuse them."""
    counts = parameter_counts(model)
    parts = {f"parameters, {name}": float(counts[name]) for name in ("rgb", "depth", "fusion")}
    return {"parameters": float(counts["total"]), **parts}


def active_table(data: PreparedRows, keypoints: Rows, chosen: Int[np.ndarray, " n"]) -> bytes:
    """CSV, one line per clip: active tracks, and mean path of these and of the camera.

    Paths are shares of the frame.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip", "active_tracks", "mean_motion", "camera_motion"])
    found = data(chosen)
    for row, motion, camera in zip(chosen, found["motion"], found["camera_motion"], strict=True):
        active = motion[motion > 0]
        mean = float(active.mean()) if len(active) else 0.0
        clip_id = keypoints.clip_ids[row]
        writer.writerow([clip_id, len(active), f"{mean:.4f}", f"{float(camera):.4f}"])
    return text.getvalue().encode()
