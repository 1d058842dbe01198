"""Clips -> a trained tokenizer: of RGB frames, or of inverse depth made into images.

Files of the result: `tokenizer.safetensors` (weights, config, card), `losses.csv`, `losses.png`, `reconstruction.png`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.checkpoint import save_model, write_whole
from model.lpips import Lpips
from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.discriminator import PatchDiscriminator
from model.magvit2.losses import TokenizerLossConfig, code_perplexity, discriminator_loss, tokenizer_loss
from model.metrics import frame_psnr
from model.training import Critic, LossFn, TrainConfig
from stages.base import Progress, Resources
from stages.batches import BatchOrder, fingerprint, gather, raw_draws, spread, usable_rows
from stages.images import READS, Source, images_of, moving_mask, picture_frames
from stages.live import Live, live
from stages.loss_plot import plot_losses
from stages.own_network import new_or_started
from stages.perceptual import LpipsWeights
from stages.pictures import contact_sheet, png_bytes, strip
from stages.prepared_rows import PreparedRows
from stages.training_run import (
    NOTE_FILE,
    PLOT_FILE,
    RunConfig,
    TrainingRun,
    finished,
    pick_device,
    seeded,
    start_card,
    summary,
    training_note,
)
from storage.key import parameters
from storage.results import Result, ResultWriter
from storage.rows import Rows
from storage.weights import WeightsRef

TOKENIZER_FILE = "tokenizer.safetensors"
PICTURE_FILE = "reconstruction.png"
PICTURE_CLIPS, PICTURE_FRAMES = 2, 6
DIFFERENCE_GAIN = 3  # differences are drawn this much stronger


@dataclass(frozen=True, kw_only=True)
class TokenizerBatch:
    images: Float[Tensor, "i c h w"]  # in [-1, 1]
    moving: Bool[Tensor, "i h w"]
    number: int  # of the batch, from 0
    clip_ids: list[str]

    def to(self, device: torch.device) -> "TokenizerBatch":
        images, moving = self.images.to(device), self.moving.to(device)
        return TokenizerBatch(images=images, moving=moving, number=self.number, clip_ids=self.clip_ids)


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """The patch discriminator. When it starts and how much it weighs are in `TokenizerLossConfig`."""

    base_channels: int = 64
    n_layers: int = 3
    learning_rate: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Trains the tokenizer of one kind of image on the frames of the `train` split; measures it on the `val` split."""

    source: Source
    model: MagvitConfig
    training: TrainConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    clips_per_batch: int = 8
    frames_per_clip: int = 4  # drawn anew for every batch
    moving_weight: float = 4.0  # pixels of the moving region count this much more in L1 and L2; ours, 0 is plain
    adversary: AdversaryConfig | None = None
    lpips: LpipsWeights | None = None  # for the perceptual term, which is left out without them
    start_from: WeightsRef | None = None
    # "decoder" leaves the encoder as it started: tokens stay those of `start_from`, so that a world model trained on
    # them still understands them.
    part: Literal["all", "decoder"] = "all"
    n_val_clips: int = 8
    watch: RunConfig = field(default=RunConfig(), metadata={"key": False})
    device: str | None = field(default=None, metadata={"key": False})  # None: a GPU where there is one
    resources: Resources = field(default=Resources(cpus=2.0, memory_gb=4.0), metadata={"key": False})

    version = 1

    def __post_init__(self) -> None:
        if self.part == "decoder" and self.start_from is None:
            raise ValueError("part='decoder' keeps the encoder of `start_from`: name its weights, or train 'all'")
        if min(self.clips_per_batch, self.frames_per_clip, self.n_val_clips) < 1 or self.moving_weight < 0:
            raise ValueError(
                f"clips_per_batch={self.clips_per_batch}, frames_per_clip={self.frames_per_clip}, "
                f"n_val_clips={self.n_val_clips}: expected 1 or more; moving_weight={self.moving_weight}: 0 or more"
            )

    @property
    def name(self) -> str:
        return f"{self.source}_tokenizer"

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        role, arrays = READS[self.source]
        return {"discover": ("split",), role: arrays}

    def run(
        self, rows: Mapping[str, Rows], results: Mapping[str, Result], out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        if numbers := finished(out.path, TOKENIZER_FILE):
            return numbers
        device = pick_device(self.device)
        model = self.build().to(device)
        perceptual = self.lpips.load(device) if self.lpips else None
        held_out = held_out_frames(self.source, rows, self.n_val_clips).to(device)
        run = TrainingRun(
            model=model,
            loss_fn=self.loss_fn(perceptual, critic := self.critic(model, device)),
            batch_at=self.batches(rows),
            config=self.training,
            watch=self.watch,
            folder=out.path,
            progress=progress,
            validate=lambda: scores(model, held_out),
            critic=critic,
        )
        log = run.finish()
        numbers = summary(log)
        parts = {"source": self.source, "image_size": list(held_out.images.shape[-2:]), "data": fingerprint(rows)}
        card = {**parts, **start_card(self.start_from), "training": self.training, "numbers": numbers}
        save_model(out.path / TOKENIZER_FILE, model, self.model, card=parameters(card))
        title = f"{self.source} tokenizer"
        write_whole(out.path / PLOT_FILE, plot_losses(log, f"{title}: losses"))
        write_whole(out.path / PICTURE_FILE, reconstruction_picture(self.source, model, held_out, title))
        write_whole(out.path / NOTE_FILE, training_note(title, self.start_from, numbers).encode())
        run.clean_up()
        return numbers

    def live(self, folder: Path) -> Live | None:
        return live(folder, f"{self.source} tokenizer")

    # Data

    def batches(self, rows: Mapping[str, Rows]) -> Callable[[int], TokenizerBatch]:
        """Batch i: some clips in the data set's order, and of each some frames drawn at random."""
        store, usable = rows[READS[self.source][0]], usable_rows(rows, "train")
        data = PreparedRows(lambda chosen: read_clips(self.source, store, chosen), usable)
        seed = self.training.seed
        order = BatchOrder(rows=usable, batch_size=self.clips_per_batch, seed=seed, fingerprint=fingerprint(rows))

        def batch_at(i: int) -> TokenizerBatch:
            chosen = order.at(i)
            return self.batch(data(chosen), i, [store.clip_ids[int(row)] for row in chosen], self.frames_per_clip)

        return batch_at

    def batch(
        self, arrays: Mapping[str, np.ndarray], number: int, clip_ids: list[str], n_frames: int
    ) -> TokenizerBatch:
        b, t = arrays["moving"].shape[:2]
        draws = raw_draws(b * t, "frames", self.training.seed, number).reshape(b, t)
        frames = np.sort(np.argsort(draws, axis=1)[:, :n_frames], axis=1)
        clips = np.arange(b)[:, None]
        per_frame = {name: a[clips, frames] for name, a in arrays.items() if name != "inverse_depth_range"}
        return frames_of(self.source, {**arrays, **per_frame}, clip_ids, number)

    # Networks and losses

    def build(self) -> MagvitTokenizer:
        """A new network, or that of `start_from`; raises ValueError if that one has another layout.

        Its weights lie in memory as convolutions on GPUs like them.
        """
        model = new_or_started(MagvitTokenizer, self.model, self.start_from, self.training.seed, self.name)
        if self.start_from is not None:
            model.encoder.requires_grad_(self.part == "all")
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  (torch's stubs lack it)

    def critic(self, model: MagvitTokenizer, device: torch.device) -> Critic | None:
        if self.adversary is None:
            return None
        with seeded(self.training.seed):
            judge = PatchDiscriminator(base_channels=self.adversary.base_channels, n_layers=self.adversary.n_layers)

        def loss(judge: PatchDiscriminator, batch: TokenizerBatch, noise: torch.Generator) -> dict[str, Tensor]:
            with torch.no_grad():
                reconstruction = model(batch.images).reconstruction
            return {"total": discriminator_loss(judge, batch.images, reconstruction)}

        rate = self.adversary.learning_rate
        return Critic(module=judge.to(device), loss_fn=loss, learning_rate=rate, start=self.loss.adversarial_start)

    def loss_fn(self, perceptual: Lpips | None, critic: Critic | None) -> LossFn:
        def loss(model: MagvitTokenizer, batch: TokenizerBatch, noise: torch.Generator) -> dict[str, Tensor]:
            judging = critic is not None and batch.number >= critic.start * self.training.accumulate
            found = tokenizer_loss(
                batch.images,
                model(batch.images),
                self.loss,
                pixel_weight=1 + self.moving_weight * batch.moving.float(),
                perceptual=perceptual,
                discriminator=critic.module if critic is not None and judging else None,
                last_layer=model.decoder.conv_out.weight,
            )
            return {"total": found.total, **found.parts}

        return loss


def read_clips(source: Source, store: Rows, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
    """Arrays of whole clips and where they move."""
    arrays = gather(store, READS[source][1], rows)
    moving = torch.stack([moving_mask(clip) for clip in images_of(source, arrays)])
    return arrays | {"moving": moving.numpy()}


def frames_of(source: Source, arrays: Mapping[str, np.ndarray], clip_ids: list[str], number: int = 0) -> TokenizerBatch:
    return TokenizerBatch(
        images=rearrange(images_of(source, dict(arrays)), "b t c h w -> (b t) c h w"),
        moving=rearrange(torch.from_numpy(arrays["moving"]), "b t h w -> (b t) h w"),
        number=number,
        clip_ids=clip_ids,
    )


def held_out_frames(source: Source, rows: Mapping[str, Rows], n_clips: int) -> TokenizerBatch:
    """All frames of some clips of the `val` split."""
    store, chosen = rows[READS[source][0]], spread(usable_rows(rows, "val"), n_clips)
    return frames_of(source, read_clips(source, store, chosen), [store.clip_ids[int(row)] for row in chosen])


@torch.no_grad()
def scores(model: MagvitTokenizer, batch: TokenizerBatch) -> dict[str, float]:
    """Reconstruction PSNR in dB, of whole frames and of their moving region, and how much of the codebook is used.

    Where nothing moves in any frame there is no "psnr moving".
    """
    psnr, moving_psnr, ids = [], [], []
    for start in range(0, len(batch.images), 16):
        images, moving = batch.images[start : start + 16], batch.moving[start : start + 16]
        ids.append(model.to_ids(images))
        again = model.decode_ids(ids[-1])
        psnr.append(frame_psnr(again[:, None], images[:, None])[:, 0])
        moving_psnr.append(frame_psnr(again[:, None], images[:, None], moving[:, None])[:, 0])
    low, high = code_perplexity(torch.cat(ids))
    in_motion = {"psnr moving": torch.cat(moving_psnr).nanmean().item()} if batch.moving.any() else {}
    return {
        "psnr": torch.cat(psnr).mean().item(),
        **in_motion,
        "codes used (bits 0-8)": low,
        "codes used (bits 9-17)": high,
    }


@torch.no_grad()
def reconstruction_picture(source: Source, model: MagvitTokenizer, batch: TokenizerBatch, title: str) -> bytes:
    """A PNG of a few held-out clips: frames, what is left of them after the tokens, and the difference."""
    n_frames = len(batch.images) // len(batch.clip_ids)
    psnr = scores(model, batch)["psnr"]
    shown = np.linspace(0, n_frames - 1, min(n_frames, PICTURE_FRAMES)).round().astype(int)
    strips = []
    for clip, clip_id in enumerate(batch.clip_ids[:PICTURE_CLIPS]):
        images = batch.images[clip * n_frames + torch.from_numpy(shown)]
        again = model.decode_ids(model.to_ids(images))
        difference = (again - images).abs() * DIFFERENCE_GAIN - 1
        rows = [("frames", images), ("from tokens", again)]
        drawn = [(label, picture_frames(source, row)) for label, row in rows]
        drawn.append((f"|difference|\nx {DIFFERENCE_GAIN}", picture_frames("rgb", difference)))
        note = f"{clip_id} (held out); mean over held-out clips {psnr:.1f} dB"
        strips.append(strip(drawn, columns=[f"frame {i}" for i in shown], title=title, note=note))
    return png_bytes(contact_sheet(strips))
