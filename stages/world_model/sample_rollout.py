"""Rollouts of a few held-out clips during a training: token accuracy, PSNR and a picture.

All frames are generated from frame 0 and the true actions, as in evaluation. Token accuracy needs
the tokens only; PSNR and pictures need the tokenizers that made them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.magvit2.autoencoder import MagvitTokenizer
from model.metrics import frame_psnr
from model.training.device import step_generator
from model.value_range import IMAGES
from model.world.batch import WorldBatch
from model.world.cache import FrameTokens
from model.world.config import SamplingConfig
from model.world.dual_branch import DualBranchWorldModel
from model.world.sampling import rollout
from stages.drawing.pictures import contact_sheet, png_bytes, strip
from stages.tokenizer.decode import decode_clips, load_tokenizer
from stages.tokenizer.images import Source, picture_frames
from storage.errors import StoreError
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import ClipRows, Rows

ROLLOUT_ROLE = 4  # keeps its noise apart from that of training, validation and evaluation
CLIPS, PICTURE_FRAMES = 2, 8  # of a picture


@dataclass(frozen=True, kw_only=True)
class SampleRollout:
    """A `stages.training.run.Sample`; always the same clips and noise, so pictures compare."""

    batch: WorldBatch
    decoders: Mapping[Source, MagvitTokenizer]  # of the branches that have one
    seed: int
    sampling: SamplingConfig

    @torch.no_grad()
    def __call__(
        self, model: DualBranchWorldModel, step: int
    ) -> tuple[dict[str, float], bytes | None]:
        batch = self.batch
        depth_tokens = batch.depth_tokens if model.depth is not None else None
        true = FrameTokens(batch.rgb_tokens, depth_tokens)
        noise = step_generator(self.seed, 0, ROLLOUT_ROLE)
        made = rollout(model, true[:1], batch.actions, self.sampling, noise)
        numbers, strips, n_clips = {}, [], len(batch.clip_ids)
        for source, predicted, expected in branches(made, true):
            numbers[f"{source} tokens right"] = token_accuracy(predicted, expected)
            if source in self.decoders:
                decoder = self.decoders[source]
                found, wanted = decode_clips(decoder, predicted), decode_clips(decoder, expected)
                psnr = frame_psnr(found, wanted, value_range=IMAGES)
                numbers[f"{source} psnr"] = psnr[:, 1:].mean().item()
                strips += [self.draw(source, i, found[i], wanted[i], step) for i in range(n_clips)]
        picture = png_bytes(contact_sheet(strips, columns=n_clips)) if strips else None
        return numbers, picture

    def draw(
        self,
        source: Source,
        i: int,
        found: Float[Tensor, "t c h w"],
        wanted: Float[Tensor, "t c h w"],
        step: int,
    ) -> np.ndarray:
        shown = np.linspace(0, len(found) - 1, min(len(found), PICTURE_FRAMES)).round().astype(int)
        rows = [("decoded\ntruth", picture_frames(source, wanted[shown]))]
        rows.append(("from\nframe 0", picture_frames(source, found[shown])))
        return strip(
            rows,
            columns=[f"frame {t}" for t in shown],
            title=f"Step {step}: {source}",
            note=self.batch.clip_ids[i],
        )


def branches(
    made: FrameTokens, true: FrameTokens
) -> list[tuple[Source, Int[Tensor, "b t gh gw"], Int[Tensor, "b t gh gw"]]]:
    """(source, predicted, true) of each branch of the model."""
    found: list[tuple[Source, Tensor, Tensor]] = [("rgb", made.rgb, true.rgb)]
    if made.depth is not None and true.depth is not None:
        found.append(("depth", made.depth, true.depth))
    return found


def token_accuracy(predicted: Int[Tensor, "b t gh gw"], true: Int[Tensor, "b t gh gw"]) -> float:
    """The share of tokens that are predicted right, in frames 1 and later."""
    right: Bool[Tensor, "b t gh gw"] = predicted[:, 1:] == true[:, 1:]
    return right.float().mean().item()


def decoders_of(rows: Mapping[str, Rows], device: torch.device) -> dict[Source, MagvitTokenizer]:
    """The tokenizers that made the tokens, without those that no longer exist.

    Found by the manifests of the token stores. They are no inputs of the stage: the training does
    not depend on them.
    """
    found: dict[Source, MagvitTokenizer] = {}
    sources: tuple[Source, ...] = ("rgb", "depth")
    for source in sources:
        tokens = rows[f"{source}_tokens"]
        assert isinstance(tokens, ClipRows), tokens
        made_by = StoreRef.under(tokens.ref.root, tokens.manifest.inputs["tokenizer"])
        try:
            found[source] = load_tokenizer(open_result(made_by), source).to(device)
        except (StoreError, FileNotFoundError):
            continue
    return found
