"""Rows of the stores -> batches of the world model: tokens, actions, active tracks."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.training.parallel import ALONE, Workers
from model.world.batch import ActionStats, WorldBatch
from stages.label_noise import SPOILED
from storage.stores import store
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
    """The actions that the world model reads, normalised."""
    actions = pick_substeps(clip.gather("actions", chosen), n_substeps)
    return stats.normalise(torch.from_numpy(actions))


def pick_substeps(
    actions: Float[np.ndarray, "b t s a"], count: int
) -> Float[np.ndarray, "b t i a"]:
    """`count` evenly spaced sub-steps of those that lead into each frame, always with the last one.

    Raises ValueError if there are fewer.
    """
    n_substeps = actions.shape[2]
    if not 1 <= count <= n_substeps:
        raise ValueError(
            f"action_substeps={count}: the clips hold {n_substeps} actions between two frames, "
            f"expected 1 to {n_substeps}"
        )
    ends = np.arange(1, count + 1) * n_substeps // count
    return actions[:, :, ends - 1]


def track_shares(
    tracks: Float[np.ndarray, "b t p 2"], height: int, width: int
) -> Float[Tensor, "b t p 2"]:
    """Pixel coordinates as shares of the frame's width and height."""
    return (torch.from_numpy(tracks) + 0.5) / torch.tensor([width, height])


def card_stats(card: Mapping) -> ActionStats:
    """The action statistics of a checkpoint."""
    return ActionStats(mean=torch.tensor(card["action_mean"]), std=torch.tensor(card["action_std"]))


def tokenizer_keys(rows: Mapping[str, Rows]) -> dict[str, str]:
    """Role -> `stage/key` of the tokenizer that made its tokens."""
    keys = {}
    for role in ("rgb_tokens", "depth_tokens"):
        tokens = rows[role]
        assert isinstance(tokens, ClipRows), tokens
        keys[role] = tokens.manifest.inputs["tokenizer"]
    return keys


def spoiled_labels(rows: Mapping[str, Rows]) -> list[str]:
    """How labels behind the tracks and the depth tokens were spoiled on purpose, where they were.

    Nothing of the depth, if its store is gone: the tokens' manifest does not say it.
    """
    tokens, tracks = rows["depth_tokens"], rows["keypoints"]
    assert isinstance(tokens, ClipRows) and isinstance(tracks, ClipRows)
    found, made_from = [tracks.manifest], tokens.manifest.inputs.get("depth")
    if made_from and store.is_complete(ref := StoreRef.under(tokens.ref.root, made_from)):
        found.append(store.read_manifest(ref))
    return [how for manifest in found if (how := manifest.attributes.get(SPOILED))]
