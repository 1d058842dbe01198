"""Held-out clips and a trained world model -> predicted videos, by protocol.

Teacher-forced: every frame from the true frames before it. Free-running: all frames from frame 0
alone, which is what a world model is for; also under another clip's actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.batched import Precision
from model.steadiness import depth_edges
from model.training.checkpoint import load_model, read_header
from model.training.device import step_generator
from model.world.batch import ActionStats
from model.world.cache import FrameTokens
from model.world.config import SamplingConfig, WorldModelConfig
from model.world.dual_branch import DualBranchWorldModel
from model.world.sampling import rollout, teacher_forced
from stages.batches import clip_ids_at, raw_draws
from stages.depth.scaling import image_to_depth
from stages.evaluation.controls import ControlForms, Controls, other_controls
from stages.evaluation.scores import FREE, TEACHER, ClipDepth, ClipVideos
from stages.tokenizer.decode import decode_clips, load_tokenizer, read_ids
from stages.tokenizer.images import Source, rgb_to_images
from stages.world_model.data import WORLD_MODEL_FILE, card_stats, tokenizer_keys, world_actions
from storage.stores.results import Result
from storage.stores.rows import Rows

SAMPLING_ROLE = 3  # keeps the noise of generation apart from that of training and validation


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks that generation needs; no `depth_tokenizer` without a depth branch."""

    world: DualBranchWorldModel
    stats: ActionStats
    rgb_tokenizer: MagvitTokenizer
    depth_tokenizer: MagvitTokenizer | None
    precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        return next(self.world.parameters()).device

    @property
    def has_depth(self) -> bool:
        return self.depth_tokenizer is not None

    def tokenizer(self, source: Source) -> MagvitTokenizer:
        found = self.rgb_tokenizer if source == "rgb" else self.depth_tokenizer
        assert found is not None, source
        return found


def load_networks(
    rows: Mapping[str, Rows],
    results: Mapping[str, Result],
    device: torch.device,
    precision: Precision = "float32",
) -> Networks:
    """The networks; raises ValueError if model, tokens and tokenizers do not belong together."""
    networks = networks_of(results["world_model"].file(WORLD_MODEL_FILE), rows, results, device)
    return replace(networks, precision=precision)


def networks_of(
    path: Path, rows: Mapping[str, Rows], results: Mapping[str, Result], device: torch.device
) -> Networks:
    """As `load_networks`, with the world model of any file."""
    world, config = load_model(path, DualBranchWorldModel, WorldModelConfig)
    card = read_header(path)["card"]
    roles = ("rgb", "depth") if config.depth_branch else ("rgb",)
    check_belong_together(config, card, rows, results, roles)
    rgb, depth = load_tokenizer(results["rgb_tokenizer"], "rgb").to(device), None
    if config.depth_branch:
        depth = load_tokenizer(results["depth_tokenizer"], "depth").to(device)
    world = world.requires_grad_(False).to(device)
    return Networks(world=world, stats=card_stats(card), rgb_tokenizer=rgb, depth_tokenizer=depth)


def check_belong_together(
    config: WorldModelConfig,
    card: Mapping,
    rows: Mapping[str, Rows],
    results: Mapping[str, Result],
    roles: tuple[str, ...],
) -> None:
    made_by = tokenizer_keys(rows)
    for role in roles:
        store = f"{role}_tokens"
        trained_on, given = card["tokenizers"][store], results[f"{role}_tokenizer"]
        if not made_by[store] == trained_on == str(given.ref):
            raise ValueError(
                f"the {role} tokens were made by tokenizer {made_by[store]}, the world model was "
                f"trained on those of {trained_on}, and {given.ref} is given for decoding: all "
                f"three must be one. Run the stages from '{store}' on again"
            )
        grid = tuple(rows[store].spec(store).shape[1:])
        if grid != tuple(config.grid):
            raise ValueError(
                f"store {rows[store].ref} has frames of {grid} tokens, the world model reads "
                f"{config.grid}: evaluate it on tokens of the size that it was trained on"
            )


def draw_others(
    usable: Int[np.ndarray, " n"], chosen: Int[np.ndarray, " b"], seed: int
) -> Int[np.ndarray, " b"]:
    """For each chosen row another usable one, drawn at random, whose actions to use.

    Raises ValueError if fewer than two are usable.
    """
    if len(usable) < 2:
        raise ValueError(
            f"{len(usable)} usable clips: expected 2 or more, for another one's actions"
        )
    places = np.searchsorted(usable, chosen)
    steps = 1 + raw_draws(len(usable), "other actions", seed)[places] % np.uint64(len(usable) - 1)
    return usable[(places + steps.astype(np.int64)) % len(usable)]


@dataclass(frozen=True, kw_only=True)
class PredictedTokens:
    """Predicted tokens of whole clips; frame 0 is the given one."""

    by_protocol: Mapping[str, FrameTokens]
    # Free-running under other actions than the clip's, by form, with the same noise
    controls: Controls[FrameTokens]


def predict_tokens(
    model: DualBranchWorldModel,
    true: FrameTokens,
    actions: Float[Tensor, "b t i a"],
    controls: Controls[Tensor],
    sampling: SamplingConfig,
    seed: int,
    number: int,
) -> PredictedTokens:
    """All predictions of one batch; `number` is the batch's, which decides its noise."""

    def noise() -> torch.Generator:
        return step_generator(seed, number, SAMPLING_ROLE)

    given = true[:1]
    free = rollout(model, given, actions, sampling, noise())
    teacher = given.then(teacher_forced(model, true, actions, sampling, noise()))
    return PredictedTokens(
        by_protocol={FREE: free, TEACHER: teacher},
        controls={
            form: [rollout(model, given, other, sampling, noise()) for other in draws]
            for form, draws in controls.items()
        },
    )


def predicted_videos(
    networks: Networks,
    rows: Mapping[str, Rows],
    chosen: Int[np.ndarray, " b"],
    others: Int[np.ndarray, " b"] | None,
    sampling: SamplingConfig,
    seed: int,
    number: int,
    *,
    forms: ControlForms,
) -> list[ClipVideos]:
    """The chosen clips' true and predicted images, ready to be scored and drawn.

    others: the clips whose actions are taken instead. forms: of other actions beside these.
    """

    def actions_of(which: Int[np.ndarray, " b"]) -> Float[Tensor, "b t i a"]:
        n_substeps = networks.world.config.action_substeps
        return world_actions(rows["clip"], which, n_substeps, networks.stats).to(networks.device)

    # Predict tokens
    true, actions = read_tokens(rows, chosen, networks), actions_of(chosen)
    controls = other_controls(
        actions,
        None if others is None else actions_of(others),
        networks.stats,
        forms,
        seed,
        number,
    )
    with torch.autocast(
        networks.device.type, torch.bfloat16, enabled=networks.precision == "bfloat16"
    ):
        made = predict_tokens(networks.world, true, actions, controls, sampling, seed, number)

    def decode(tokens: FrameTokens) -> Float[Tensor, "b t c h w"]:
        return decode_clips(networks.rgb_tokenizer, tokens.rgb, networks.precision)

    # Decode them, then take the batch apart into clips
    decoded = decode(true)
    predicted = {name: decode(tokens) for name, tokens in made.by_protocol.items()}
    under = {form: [decode(draw) for draw in draws] for form, draws in made.controls.items()}
    depths: Sequence[ClipDepth | None] = [None] * len(chosen)
    labels = DepthLabels.read(rows["depth"], chosen)
    if networks.has_depth:
        depths = decoded_depths(networks, labels, true, made)
    camera = rgb_to_images(rows["clip"].gather("rgb", chosen))
    edges = labels.edges
    return [
        ClipVideos(
            clip_id=clip_id,
            camera=camera[i],
            decoded=decoded[i],
            predicted={name: video[i] for name, video in predicted.items()},
            controls={form: [video[i] for video in draws] for form, draws in under.items()},
            depth=depths[i],
            edges=edges[i],
        )
        for i, clip_id in enumerate(clip_ids_at(rows["clip"], chosen))
    ]


def read_tokens(
    rows: Mapping[str, Rows], chosen: Int[np.ndarray, " b"], networks: Networks
) -> FrameTokens:
    """The true tokens of these rows; raises ValueError, naming the clip, for an invalid token."""

    def read(name: str) -> Int[Tensor, "b t gh gw"]:
        return torch.from_numpy(read_ids(rows[name], name, chosen)).long().to(networks.device)

    return FrameTokens(read("rgb_tokens"), read("depth_tokens") if networks.has_depth else None)


@dataclass(frozen=True, kw_only=True)
class DepthLabels:
    """Of stage `depth`, in the annotator's units."""

    inverse_depth: Float[Tensor, "b t h w"]
    valid: Bool[Tensor, "b t h w"]
    limits: Float32[np.ndarray, "b 2"]

    @classmethod
    def read(cls, depth: Rows, chosen: Int[np.ndarray, " b"]) -> "DepthLabels":
        return cls(
            inverse_depth=torch.from_numpy(depth.gather("inverse_depth", chosen)).float(),
            valid=torch.from_numpy(depth.gather("valid", chosen)),
            limits=depth.gather("inverse_depth_range", chosen),
        )

    @property
    def edges(self) -> Bool[Tensor, "b t h w"]:
        spread = torch.from_numpy(self.limits[:, 1] - self.limits[:, 0])
        return depth_edges(self.inverse_depth, self.valid, spread)


def decoded_depths(
    networks: Networks, labels: DepthLabels, true: FrameTokens, made: PredictedTokens
) -> list[ClipDepth]:
    """Inverse depth in the annotator's units, by each clip's stored range."""
    limits = labels.limits

    def inverse_depth(tokens: FrameTokens) -> Float[Tensor, "b t h w"]:
        assert networks.depth_tokenizer is not None and tokens.depth is not None
        images = decode_clips(networks.depth_tokenizer, tokens.depth, networks.precision)
        gray = rearrange(images, "b t c h w -> c b t h w").mean(0)
        return torch.from_numpy(image_to_depth(gray.numpy(), limits))

    decoded = inverse_depth(true)
    predicted = {name: inverse_depth(tokens) for name, tokens in made.by_protocol.items()}
    return [
        ClipDepth(
            target=labels.inverse_depth[i],
            valid=labels.valid[i],
            limits=(float(limits[i, 0]), float(limits[i, 1])),
            decoded=decoded[i],
            predicted={name: video[i] for name, video in predicted.items()},
        )
        for i in range(len(limits))
    ]
