"""Rows of the stores to batches of the world model: tokens, actions, active tracks."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.training.parallel import ALONE, Workers
from model.world.batch import ActionStats, WorldBatch
from storage.stores.records import StoreRef
from storage.stores.rows import ClipRows, Rows

WORLD_MODEL_FILE, ACTIVE_FILE = "world_model.safetensors", "active_tracks.csv"


def world_batch(
    arrays: Mapping[str, np.ndarray], clip_ids: list[str], workers: Workers = ALONE
) -> WorldBatch:
    return WorldBatch(
        rgb_tokens=torch.from_numpy(arrays["rgb_tokens"]).long(),
        depth_tokens=torch.from_numpy(arrays["depth_tokens"]).long(),
        actions=torch.from_numpy(arrays["actions"]),
        tracks=torch.from_numpy(arrays["tracks"]),
        visible=torch.from_numpy(arrays["visible"]),
        clip_ids=clip_ids,
        workers=workers,
    )


def world_actions(
    clip: Rows, chosen: Int[np.ndarray, " b"], n_substeps: int, stats: ActionStats
) -> Float[Tensor, "b t i a"]:
    """The normalised actions that the world model reads."""
    return stats.normalise(
        torch.from_numpy(pick_substeps(clip.gather("actions", chosen), n_substeps))
    )


def pick_substeps(
    actions: Float[np.ndarray, "b t s a"], count: int
) -> Float[np.ndarray, "b t i a"]:
    """`count` of the sub-steps that lead into each frame, evenly apart, the last (nearest to the
    frame) included.
    """
    n_substeps = actions.shape[2]
    if not 1 <= count <= n_substeps:
        raise ValueError(
            f"action_substeps={count}: the clips hold 1 to {n_substeps} actions between two frames"
        )
    ends = np.arange(1, count + 1) * n_substeps // count
    return actions[:, :, ends - 1]


def track_shares(
    tracks: Float[np.ndarray, "b t p 2"], height: int, width: int
) -> Float[Tensor, "b t p 2"]:
    """Pixels (the centre of the top-left one is 0, 0) as shares of the frame's width and height."""
    return (torch.from_numpy(tracks) + 0.5) / torch.tensor([width, height])


def card_stats(card: Mapping) -> ActionStats:
    """The action statistics of a checkpoint."""
    return ActionStats(mean=torch.tensor(card["action_mean"]), std=torch.tensor(card["action_std"]))


def tokenizer_keys(rows: Mapping[str, Rows]) -> dict[str, str]:
    """Which tokenizer made the tokens: role -> stage and key of its result."""
    keys = {}
    for role in ("rgb_tokens", "depth_tokens"):
        store = rows[role]
        assert isinstance(store, ClipRows), store
        keys[role] = str(StoreRef(store.manifest.inputs["tokenizer"]))
    return keys
