"""What a world model makes of a few held-out clips while it is trained: numbers on its tokens, and
a picture.

From frame 0 and the true actions all other frames are generated, as in evaluation. Shares of right
tokens need nothing but the tokens; pictures and PSNR need the tokenizers that made them.
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
    """A `training_run.Sample`: the same clips and the same noise every time, so that pictures can
    be compared.
    """

    batch: WorldBatch
    decoders: Mapping[Source, MagvitTokenizer]  # of the branches that have one
    seed: int
    sampling: SamplingConfig

    @torch.no_grad()
    def __call__(
        self, model: DualBranchWorldModel, step: int
    ) -> tuple[dict[str, float], bytes | None]:
        batch = self.batch
        true = FrameTokens(
            batch.rgb_tokens, batch.depth_tokens if model.depth is not None else None
        )
        noise = step_generator(self.seed, 0, ROLLOUT_ROLE)
        made = rollout(model, true[:1], batch.actions, self.sampling, noise)
        numbers = {
            f"{source} tokens right": right_share(predicted, expected)
            for source, predicted, expected in branches(made, true)
        }
        strips = []
        for source, predicted, expected in branches(made, true):
            if source in self.decoders:
                found, wanted = (
                    decode_clips(self.decoders[source], ids) for ids in (predicted, expected)
                )
                numbers[f"{source} psnr"] = frame_psnr(found, wanted)[:, 1:].mean().item()
                strips += [
                    self.draw(source, i, found[i], wanted[i], step)
                    for i in range(len(batch.clip_ids))
                ]
        return numbers, png_bytes(
            contact_sheet(strips, columns=len(batch.clip_ids))
        ) if strips else None

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
    """(source, predicted, true) of each branch that there is."""
    found: list[tuple[Source, Tensor, Tensor]] = [("rgb", made.rgb, true.rgb)]
    if made.depth is not None and true.depth is not None:
        found.append(("depth", made.depth, true.depth))
    return found


def right_share(predicted: Int[Tensor, "b t gh gw"], true: Int[Tensor, "b t gh gw"]) -> float:
    """Of the tokens of frames 1 and later."""
    right: Bool[Tensor, "b t gh gw"] = predicted[:, 1:] == true[:, 1:]
    return right.float().mean().item()


def decoders_of(rows: Mapping[str, Rows], device: torch.device) -> dict[Source, MagvitTokenizer]:
    """The tokenizers that made the tokens, by their stores' manifests; a tokenizer that is gone is
    left out.

    They are no inputs of the training: nothing that it learns depends on them.
    """
    found: dict[Source, MagvitTokenizer] = {}
    sources: tuple[Source, ...] = ("rgb", "depth")
    for source in sources:
        tokens = rows[f"{source}_tokens"]
        assert isinstance(tokens, ClipRows), tokens
        made_by = StoreRef(tokens.manifest.inputs["tokenizer"])
        here = StoreRef.at(tokens.ref.root, made_by.stage, made_by.key)  # a root can be moved
        try:
            found[source] = load_tokenizer(open_result(here), source).to(device)
        except (StoreError, FileNotFoundError):
            continue
    return found
