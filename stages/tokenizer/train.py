"""Clips -> a trained tokenizer: of RGB frames, or of inverse depth made into images.

Files of the result: `tokenizer.safetensors` (weights, config, card), `losses.csv`, `losses.png`,
`reconstruction.png`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from model.lpips import Lpips
from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.discriminator import PatchDiscriminator
from model.magvit2.losses import TokenizerLossConfig, discriminator_loss, tokenizer_loss
from model.training.device import pick_device, seeded
from model.training.loop import Discriminator, LossFn, TrainConfig
from stages.base import DatasetStage, Inputs, LivePage, Progress, Resources
from stages.batches import BatchOrder, fingerprint, raw_draws, usable_rows
from stages.lpips_weights import LpipsWeights
from stages.networks import new_or_started
from stages.tokenizer.images import READS, Source
from stages.tokenizer.measure import (
    PICTURE_FILE,
    TOKENIZER_FILE,
    TokenizerBatch,
    frames_of,
    held_out_frames,
    read_clips,
    reconstruction_picture,
    scores,
)
from stages.training.live import live_page
from stages.training.prepared_rows import PreparedRows
from stages.training.result import write_training
from stages.training.run import RunConfig, TrainingRun, finished, summary
from storage.atomic import write_file
from storage.stores.results import Result, ResultWriter
from storage.stores.rows import Rows
from storage.weights.ref import WeightsRef


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The patch discriminator. When it starts and how much it weighs are in `TokenizerLossConfig`."""

    base_channels: int = 64
    n_layers: int = 3
    learning_rate: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(DatasetStage):
    """Trains the tokenizer of one kind of image on the frames of the `train` split; measures it on
    the `val` split.
    """

    source: Source
    model: MagvitConfig
    training: TrainConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    clips_per_batch: int = 8
    frames_per_clip: int = 4  # drawn anew for every batch
    # Pixels of the moving region count this much more in L1 and L2; ours, 0 is plain
    moving_weight: float = 4.0
    discriminator: DiscriminatorConfig | None = field(default=None, metadata={"key": "adversary"})
    lpips: LpipsWeights | None = None  # for the perceptual term, which is left out without them
    start_from: WeightsRef | None = None
    # "decoder" leaves the encoder as it started: tokens stay those of `start_from`, so that a world
    # model trained on them still understands them.
    part: Literal["all", "decoder"] = "all"
    n_val_clips: int = 8
    watch: RunConfig = field(default=RunConfig(), metadata={"key": False})
    # None: a GPU where there is one
    device: str | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False}
    )

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.part == "decoder" and self.start_from is None:
            raise ValueError(
                "part='decoder' keeps the encoder of `start_from`: name its weights, or train 'all'"
            )
        if (
            min(self.clips_per_batch, self.frames_per_clip, self.n_val_clips) < 1
            or self.moving_weight < 0
        ):
            raise ValueError(
                f"clips_per_batch={self.clips_per_batch}, frames_per_clip={self.frames_per_clip}, "
                f"n_val_clips={self.n_val_clips}: expected 1 or more; moving_weight={self.moving_weight}: 0 or more"
            )

    @property
    def name(self) -> str:
        return f"{self.source}_tokenizer"

    @property
    def inputs(self) -> Inputs:
        role, arrays = READS[self.source]
        return {"discover": ("split",), role: arrays}

    def run(
        self,
        rows: Mapping[str, Rows],
        results: Mapping[str, Result],
        out: ResultWriter,
        progress: Progress,
    ) -> dict[str, float]:
        if numbers := finished(out.path, TOKENIZER_FILE):
            return numbers
        device = pick_device(self.device)
        model = self.build().to(device)
        perceptual = self.lpips.load(device) if self.lpips else None
        held_out = held_out_frames(self.source, rows, self.n_val_clips).to(device)
        run = TrainingRun(
            model=model,
            loss_fn=self.loss_fn(
                perceptual, discriminator := self.new_discriminator(model, device)
            ),
            batch_at=self.batches(rows),
            config=self.training,
            watch=self.watch,
            folder=out.path,
            progress=progress,
            validate=lambda: scores(model, held_out),
            discriminator=discriminator,
        )
        log = run.finish()
        numbers = summary(log)
        title = f"{self.source} tokenizer"
        write_training(
            out.path / TOKENIZER_FILE,
            model,
            self.model,
            title=title,
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
        picture = reconstruction_picture(self.source, model, held_out, title)
        write_file(out.path / PICTURE_FILE, picture)
        run.clean_up()
        return numbers

    def live_page(self, folder: Path) -> LivePage | None:
        return live_page(folder, f"{self.source} tokenizer")

    # Data

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], TokenizerBatch]:
        """Batch i: some clips in the data set's order, and of each some frames drawn at random."""
        store, usable = rows[READS[self.source][0]], usable_rows(rows, "train")
        data = PreparedRows(lambda chosen: read_clips(self.source, store, chosen), usable)
        seed = self.training.seed
        order = BatchOrder(
            rows=usable, batch_size=self.clips_per_batch, seed=seed, fingerprint=fingerprint(rows)
        )

        def batch_at(i: int) -> TokenizerBatch:
            chosen = order.at(i)
            return self.batch(
                data(chosen), i, [store.clip_ids[int(row)] for row in chosen], self.frames_per_clip
            )

        return batch_at

    def batch(
        self, arrays: Mapping[str, np.ndarray], number: int, clip_ids: list[str], n_frames: int
    ) -> TokenizerBatch:
        b, t = arrays["moving"].shape[:2]
        draws = raw_draws(b * t, "frames", self.training.seed, number).reshape(b, t)
        frames = np.sort(np.argsort(draws, axis=1)[:, :n_frames], axis=1)
        clips = np.arange(b)[:, None]
        per_frame = {
            name: a[clips, frames] for name, a in arrays.items() if name != "inverse_depth_range"
        }
        return frames_of(self.source, {**arrays, **per_frame}, clip_ids, number)

    # Networks and losses

    def build(self) -> MagvitTokenizer:
        """A new network, or that of `start_from`; raises ValueError if that one has another layout.

        Its weights lie in memory as convolutions on GPUs like them.
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

    def loss_fn(self, perceptual: Lpips | None, discriminator: Discriminator | None) -> LossFn:
        def loss(
            model: MagvitTokenizer, batch: TokenizerBatch, noise: torch.Generator
        ) -> dict[str, Tensor]:
            adversarial = (
                discriminator is not None
                and batch.number >= discriminator.start * self.training.grad_accum_steps
            )
            found = tokenizer_loss(
                batch.images,
                model(batch.images),
                self.loss,
                pixel_weight=1 + self.moving_weight * batch.moving.float(),
                perceptual=perceptual,
                discriminator=discriminator.module if discriminator and adversarial else None,
                last_layer=model.decoder.conv_out.weight,
            )
            return {"total": found.total, **found.parts}

        return loss
