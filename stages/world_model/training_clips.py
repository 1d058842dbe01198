"""Which clips a world model trains on and is measured on, and how they become batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Int

from model.training.checkpoint import read_header
from model.training.loop import TrainConfig
from model.training.parallel import ALONE, Workers
from model.world.batch import ActionStats, WorldBatch
from model.world.config import WorldModelConfig
from model.world.keypoints import select_active_tracks
from stages.batches import clip_ids_at, fingerprint, gather, spread_rows
from stages.clip_choice import choose_clips
from stages.flag_counts import counts_text
from stages.tokenizer.decode import read_ids
from stages.training.prepared_rows import PreparedRows
from stages.world_model.clip_order import Order, batch_order, of_episodes
from stages.world_model.data import (
    card_stats,
    pick_substeps,
    spoiled_labels,
    track_shares,
    world_actions,
    world_batch,
)
from stages.world_model.shuffling import Shuffled
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef

# Action statistics and the table of active tracks are taken from at most this many clips
STATS_CLIPS = 4096


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Which tracks enter the losses; the paper leaves K and the camera open."""

    n_active: Annotated[int, Ge(1)] = 64  # K
    # Least distance of a track from its start, as a share of the frame; 0 is the paper's rule
    min_motion: Annotated[float, Ge(0)] = 0.03
    # For moving cameras: ranks tracks by their motion relative to the background
    compensate_camera: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """The parameters of `TrainWorldModel` that decide this."""

    model: WorldModelConfig
    training: TrainConfig
    tracks: TrackConfig
    clips_per_batch: int
    n_val_clips: int
    dropped_flags: tuple[str, ...]
    n_episodes: int
    order: Order
    shuffled: Shuffled
    start_from: WeightsRef | None

    def rows_of(self, rows: Mapping[str, Rows], split: str) -> Int[np.ndarray, " n"]:
        """The usable rows of a split. Raises ValueError, with the counts, if there are none."""
        chosen = choose_clips(rows, split, self.dropped_flags)
        if len(chosen.rows) == 0:
            raise ValueError(
                f"all {chosen.n_usable} clips of split {split} are flagged: "
                f"{counts_text(chosen.dropped)}. Raise the limit of stage label_quality that its "
                "flag names, set world_model.drop_flagged=false, or name fewer "
                "world_model.drop_flags"
            )
        return chosen.rows

    def training_rows(self, rows: Mapping[str, Rows]) -> Int[np.ndarray, " n"]:
        """The rows to train on. Raises ValueError if they are of fewer episodes than asked for."""
        used = self.rows_of(rows, "train")
        if not self.n_episodes:
            return used
        tasks, episodes = (rows["discover"].gather(name, used) for name in ("task", "episode"))
        return of_episodes(used, tasks, episodes, self.n_episodes)

    def text(self, rows: Mapping[str, Rows]) -> str:
        """Which clips were used, and what was doubted about them."""
        splits = (choose_clips(rows, split, self.dropped_flags) for split in ("train", "val"))
        lines = [chosen.text for chosen in splits]
        if self.n_episodes:
            lines.append(f"of the training clips, those of {self.n_episodes} episodes alone")
        if self.shuffled != "none":
            lines.append(f"**the {self.shuffled} of each training clip are another one's**")
        if self.order != "random":
            lines.append(f"training clips {self.order}, by motion of hands and grippers")
        lines += [f"**labels spoiled on purpose**: {how}" for how in spoiled_labels(rows)]
        return "\n".join(f"- {line}" for line in lines)

    def prepare(
        self,
        rows: Mapping[str, Rows],
        stats: ActionStats,
        chosen: Int[np.ndarray, " b"],
        partners: Mapping[int, int] = MappingProxyType({}),
    ) -> dict[str, np.ndarray]:
        """The arrays of these rows that batches need, and the motion of their active tracks.

        partners: of each row the one whose depth or actions it gets, where `shuffled` says so.
        """
        others = np.array([partners.get(row, row) for row in chosen.tolist()], dtype=chosen.dtype)
        of_depth = others if self.shuffled == "depth" else chosen
        of_actions = others if self.shuffled == "actions" else chosen
        found = gather(rows["keypoints"], ("tracks", "visible"), chosen)
        _, height, width, _ = rows["clip"].spec("rgb").shape
        active = select_active_tracks(
            track_shares(found["tracks"], height, width),
            torch.from_numpy(found["visible"]),
            self.tracks.n_active,
            compensate_camera=self.tracks.compensate_camera,
            min_motion=self.tracks.min_motion,
        )
        actions = world_actions(rows["clip"], of_actions, self.model.action_substeps, stats)
        return {
            "rgb_tokens": read_ids(rows["rgb_tokens"], "rgb_tokens", chosen),
            "depth_tokens": read_ids(rows["depth_tokens"], "depth_tokens", of_depth),
            "actions": actions.numpy(),
            "tracks": active.tracks.numpy(),
            "visible": active.visible.numpy(),
            "motion": active.motion.numpy(),
            "camera_motion": active.camera_motion.numpy(),
        }

    def batches(
        self,
        rows: Mapping[str, Rows],
        data: PreparedRows,
        used: Int[np.ndarray, " n"],
        workers: Workers = ALONE,
    ) -> Callable[[int], WorldBatch]:
        """Batch number -> this worker's shard of the global batch."""
        clips = rows["rgb_tokens"]
        order = batch_order(
            self.order,
            lambda chosen: rows["clip"].gather("actions", chosen),
            used,
            batch_size=self.clips_per_batch,
            n_batches=self.training.steps * self.training.grad_accum_steps,
            seed=self.training.seed,
            fingerprint=fingerprint(rows),
        )

        def batch_at(i: int) -> WorldBatch:
            chosen = order.at(i, workers.rank, workers.n)
            return world_batch(data(chosen), clip_ids_at(clips, chosen), workers)

        return batch_at

    def held_out(self, rows: Mapping[str, Rows], stats: ActionStats) -> list[WorldBatch]:
        chosen = spread_rows(self.rows_of(rows, "val"), self.n_val_clips)
        starts, clips = range(0, len(chosen), self.clips_per_batch), rows["rgb_tokens"]
        parts = [chosen[start : start + self.clips_per_batch] for start in starts]
        return [
            world_batch(self.prepare(rows, stats, part), clip_ids_at(clips, part)) for part in parts
        ]

    def action_stats(self, clip: Rows, used: Int[np.ndarray, " n"]) -> ActionStats:
        """The action statistics of `start_from`'s checkpoint, else those of the training clips."""
        if self.start_from is not None:
            return card_stats(read_header(self.start_from.resolve())["card"])
        actions = clip.gather("actions", spread_rows(used, STATS_CLIPS))
        picked = pick_substeps(actions, self.model.action_substeps)
        return ActionStats.measure(torch.from_numpy(picked))
