"""Clips -> a trained tokenizer of RGB frames, or of inverse depth as images.

Files of the result: `tokenizer.safetensors` (weights, config, card), `losses.csv`, `losses.png`,
`reconstruction.png`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from model.lpips import Lpips
from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.discriminator import PatchDiscriminator
from model.magvit2.losses import TokenizerLossConfig, discriminator_loss, tokenizer_loss
from model.training.device import pick_device, seeded
from model.training.loop import Discriminator, LossFn, TrainConfig
from stages.base import InputResults, InputRows, LivePage, Progress
from stages.batches import BatchOrder, clip_ids_at, fingerprint, raw_draws, usable_rows
from stages.lpips_weights import LpipsWeights
from stages.networks import new_or_started
from stages.tokenizer.images import READS
from stages.tokenizer.measure import (
    PICTURE_FILE,
    TOKENIZER_FILE,
    TokenizerBatch,
    frames_of,
    held_out_frames,
    read_clips,
    reconstruction_picture,
    reconstruction_scores,
)
from stages.tokenizer.stage import TokenizerStage
from stages.training.disk_use import parameter_count, training_use
from stages.training.live import live_page
from stages.training.log import summary
from stages.training.prepared_rows import PreparedRows
from stages.training.result import write_training
from stages.training.run import RunConfig, TrainingRun
from stages.training.states import finished
from storage.atomic import write_file
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows
from storage.stores.size import DiskUse
from storage.weights.ref import WeightsRef


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The patch discriminator; its start and its weight are in `TokenizerLossConfig`."""

    base_channels: Annotated[int, Interval(ge=1, le=8192)] = 64
    n_layers: Annotated[int, Interval(ge=1, le=16)] = 3
    learning_rate: Annotated[float, Gt(0)] = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(TokenizerStage):
    """Trains the tokenizer of one kind of image on frames of the `train` split."""

    model: MagvitConfig
    training: TrainConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    clips_per_batch: Annotated[int, Ge(1)] = 8
    frames_per_clip: Annotated[int, Ge(1)] = 4  # drawn again for every batch
    # Extra weight of the moving region in L1 and L2; ours, 0: none
    moving_weight: Annotated[float, Ge(0)] = 4.0
    # Extra weight of pixels that differ from their surroundings, coloured ones most (`detail_map`):
    # small things would count as little as the few pixels that they have
    detail_weight: Annotated[float, Ge(0)] = field(default=0.0, metadata={"added": True})
    discriminator: DiscriminatorConfig | None = field(default=None, metadata={"key": "adversary"})
    lpips: LpipsWeights | None = None  # None: no perceptual term
    start_from: WeightsRef | None = None
    # "decoder" keeps the encoder of `start_from` and so its tokens: a world model trained on them
    # stays valid
    part: Literal["all", "decoder"] = "all"
    watch: RunConfig = field(default=RunConfig(), metadata={"key": False})

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.part == "decoder" and self.start_from is None:
            raise ValueError(
                "part='decoder' keeps the encoder of `start_from`: name its weights, or train 'all'"
            )
        least = min(self.clips_per_batch, self.frames_per_clip, self.n_val_clips)
        if least < 1 or min(self.moving_weight, self.detail_weight) < 0:
            raise ValueError(
                f"clips_per_batch={self.clips_per_batch}, frames_per_clip={self.frames_per_clip}, "
                f"n_val_clips={self.n_val_clips}: expected 1 or more; "
                f"moving_weight={self.moving_weight}, detail_weight={self.detail_weight}: "
                "expected 0 or more"
            )

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        if numbers := finished(out.path, TOKENIZER_FILE):
            return numbers
        # Load what training and measuring need
        device = pick_device(self.device)
        model = self.build().to(device)
        discriminator = self.new_discriminator(model, device)
        perceptual = self.lpips.load(device) if self.lpips else None
        held_out = held_out_frames(self.source, rows, self.n_val_clips).to(device)
        # Train, from a saved state if an earlier attempt left one
        run = TrainingRun(
            model=model,
            loss_fn=self.loss_fn(perceptual, discriminator),
            batch_at=self.batches(rows),
            config=self.training,
            watch=self.watch,
            folder=out.path,
            progress=progress,
            validate=lambda: reconstruction_scores(self.source, model, held_out),
            discriminator=discriminator,
        )
        log = run.finish()
        # Write the result's files; the saved states go last
        numbers = summary(log)
        write_training(
            out.path / TOKENIZER_FILE,
            model,
            self.model,
            title=self.title,
            log=log,
            numbers=numbers,
            start_from=self.start_from,
            card={
                "source": self.source,
                "image_size": list(held_out.images.shape[-2:]),
                "data": fingerprint(rows),
                "training": self.training,
            },
        )
        picture = reconstruction_picture(self.source, model, held_out, self.title)
        write_file(out.path / PICTURE_FILE, picture)
        run.clean_up()
        return numbers

    def live_page(self, folder: Path) -> LivePage | None:
        return live_page(folder, self.title)

    def disk_use(self, n_clips: int) -> DiskUse:
        discriminator = 0
        if self.discriminator is not None:
            channels, n_layers = self.discriminator.base_channels, self.discriminator.n_layers
            discriminator = parameter_count(
                lambda: PatchDiscriminator(base_channels=channels, n_layers=n_layers)
            )
        network = parameter_count(lambda: MagvitTokenizer(self.model))
        return training_use(network, self.training, self.watch, discriminator=discriminator)

    @property
    def title(self) -> str:
        return f"{self.source} tokenizer"

    # Data

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], TokenizerBatch]:
        """Batch i: the next clips in the data set's order, with frames of each drawn at random."""
        store, usable = rows[READS[self.source][0]], usable_rows(rows, "train")
        # The masks cost more than reading: only those that weigh something
        masks = {"moving": self.moving_weight > 0, "detail": self.detail_weight > 0}
        data = PreparedRows(lambda chosen: read_clips(self.source, store, chosen, **masks), usable)
        seed = self.training.seed
        order = BatchOrder(
            rows=usable, batch_size=self.clips_per_batch, seed=seed, fingerprint=fingerprint(rows)
        )

        def batch_at(i: int) -> TokenizerBatch:
            chosen = order.at(i)
            clip_ids = clip_ids_at(store, chosen)
            return self.batch(data(chosen), i, clip_ids, self.frames_per_clip)

        return batch_at

    def batch(
        self, arrays: Mapping[str, np.ndarray], number: int, clip_ids: list[str], n_frames: int
    ) -> TokenizerBatch:
        b, t = arrays[READS[self.source][1][0]].shape[:2]
        draws = raw_draws(b * t, "frames", self.training.seed, number).reshape(b, t)
        frames = np.sort(np.argsort(draws, axis=1)[:, :n_frames], axis=1)
        clips = np.arange(b)[:, None]
        per_frame = {
            name: a[clips, frames] for name, a in arrays.items() if name != "inverse_depth_range"
        }
        return frames_of(self.source, {**arrays, **per_frame}, clip_ids, number)

    # Networks and losses

    def build(self) -> MagvitTokenizer:
        """A new network, or that of `start_from`; channels last, the fast layout for GPUs.

        Raises ValueError if `start_from` has another config.
        """
        model = new_or_started(
            MagvitTokenizer, self.model, self.start_from, self.training.seed, self.name
        )
        if self.start_from is not None:
            model.encoder.requires_grad_(self.part == "all")
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  (torch's stubs lack it)

    def new_discriminator(
        self, model: MagvitTokenizer, device: torch.device
    ) -> Discriminator | None:
        if self.discriminator is None:
            return None
        with seeded(self.training.seed):
            network = PatchDiscriminator(
                base_channels=self.discriminator.base_channels, n_layers=self.discriminator.n_layers
            )

        def loss(
            network: PatchDiscriminator, batch: TokenizerBatch, noise: torch.Generator
        ) -> dict[str, Tensor]:
            with torch.no_grad():
                reconstruction = model(batch.images).reconstruction
            return {"total": discriminator_loss(network, batch.images, reconstruction)}

        return Discriminator(
            module=network.to(device),
            loss_fn=loss,
            learning_rate=self.discriminator.learning_rate,
            start=self.loss.adversarial_start,
        )

    def pixel_weight(self, batch: TokenizerBatch) -> Tensor:
        weight = torch.ones_like(batch.images[:, 0])
        if batch.moving is not None:
            weight = weight + self.moving_weight * batch.moving
        return weight if batch.detail is None else weight + self.detail_weight * batch.detail

    def loss_fn(self, perceptual: Lpips | None, discriminator: Discriminator | None) -> LossFn:
        n_accum = self.training.grad_accum_steps

        def loss(
            model: MagvitTokenizer, batch: TokenizerBatch, noise: torch.Generator
        ) -> dict[str, Tensor]:
            network = None
            if discriminator and batch.number >= discriminator.start * n_accum:
                network = discriminator.module
            found = tokenizer_loss(
                batch.images,
                model(batch.images),
                self.loss,
                pixel_weight=self.pixel_weight(batch),
                perceptual=perceptual,
                discriminator=network,
                last_layer=model.decoder.conv_out.weight,
            )
            return {"total": found.total, **found.parts}

        return loss
