"""How well a tokenizer reconstructs held-out clips: metrics and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.detail_metrics import chroma_psnr, colour_kept, detail_psnr
from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.losses import code_perplexity
from model.metrics import frame_psnr
from model.value_range import IMAGES
from stages.batches import clip_ids_at, gather, spread_rows, usable_rows
from stages.drawing.pictures import contact_sheet, png_bytes, strip
from stages.tokenizer.images import (
    READS,
    Source,
    detail_map,
    images_of,
    moving_mask,
    picture_frames,
)
from storage.stores.rows import Rows

TOKENIZER_FILE = "tokenizer.safetensors"
PICTURE_FILE = "reconstruction.png"
PICTURE_CLIPS, PICTURE_FRAMES = 2, 6
DIFFERENCE_GAIN = 3  # differences are amplified this much


@dataclass(frozen=True, kw_only=True)
class TokenizerBatch:
    """Frames, and the masks that were asked for."""

    images: Float[Tensor, "i c h w"]  # in [-1, 1]
    moving: Bool[Tensor, "i h w"] | None = None
    detail: Float[Tensor, "i h w"] | None = None  # of `detail_map`, in [0, 1]
    number: int  # of the batch, from 0
    clip_ids: list[str]

    def pinned(self) -> "TokenizerBatch":
        return self

    def to(self, device: torch.device) -> "TokenizerBatch":
        detail = None if self.detail is None else self.detail.to(device)
        moving = None if self.moving is None else self.moving.to(device)
        return replace(self, images=self.images.to(device), moving=moving, detail=detail)


def read_clips(
    source: Source,
    store: Rows,
    rows: Int[np.ndarray, " b"],
    *,
    moving: bool = True,
    detail: bool = False,
) -> dict[str, np.ndarray]:
    """The arrays of whole clips; where they move and their `detail_map`, if these are wanted."""
    arrays = gather(store, READS[source][1], rows)
    clips = images_of(source, arrays) if moving or detail else ()
    if moving:
        arrays["moving"] = np.stack([moving_mask(clip).numpy() for clip in clips])
    if detail:
        arrays["detail"] = np.stack([detail_map(clip) for clip in clips])
    return arrays


def frames_of(
    source: Source, arrays: Mapping[str, np.ndarray], clip_ids: list[str], number: int = 0
) -> TokenizerBatch:
    masks = {
        name: rearrange(torch.from_numpy(arrays[name]), "b t h w -> (b t) h w")
        for name in ("moving", "detail")
        if name in arrays
    }
    return TokenizerBatch(
        images=rearrange(images_of(source, dict(arrays)), "b t c h w -> (b t) c h w"),
        moving=masks.get("moving"),
        detail=masks["detail"] / 255 if "detail" in masks else None,
        number=number,
        clip_ids=clip_ids,
    )


def held_out_frames(source: Source, rows: Mapping[str, Rows], n_clips: int) -> TokenizerBatch:
    """All frames of some clips of the `val` split."""
    store, chosen = rows[READS[source][0]], spread_rows(usable_rows(rows, "val"), n_clips)
    return frames_of(source, read_clips(source, store, chosen), clip_ids_at(store, chosen))


@torch.no_grad()
def reconstruction_scores(
    source: Source, model: MagvitTokenizer, batch: TokenizerBatch
) -> dict[str, float]:
    """PSNR in dB of whole frames and of regions, and how much of the codebook is used.

    Of RGB also the colours, which the PSNR of whole frames hides: see `model.detail_metrics`. What
    cannot be measured is missing: "psnr moving" if nothing moves, "colours kept" of grey frames.
    """
    assert batch.moving is not None, "held_out_frames makes the masks"
    pairs, ids = [], []
    for images, moving in zip(batch.images.split(16), batch.moving.split(16), strict=True):
        ids.append(model.to_ids(images))
        decoded = model.decode_ids(ids[-1])
        pairs.append(pair_scores(source, decoded[:, None], images[:, None], moving[:, None]))
    values = {name: torch.cat([pair[name] for pair in pairs]) for name in pairs[0]}
    found = {name: v.nanmean().item() for name, v in values.items() if not v.isnan().all()}
    low, high = code_perplexity(torch.cat(ids))
    return found | {"codes used (bits 0-8)": low, "codes used (bits 9-17)": high}


def pair_scores(
    source: Source,
    decoded: Float[Tensor, "i 1 c h w"],
    images: Float[Tensor, "i 1 c h w"],
    moving: Bool[Tensor, "i 1 h w"],
) -> dict[str, Float[Tensor, " i"]]:
    """One value an image; NaN where nothing moves, or nothing is coloured."""
    scores = {
        "psnr": frame_psnr(decoded, images, value_range=IMAGES)[:, 0],
        "psnr moving": frame_psnr(decoded, images, moving, value_range=IMAGES)[:, 0],
        "psnr detail": detail_psnr(decoded, images, value_range=IMAGES),
    }
    if source == "depth":  # as an image it is grey
        return scores
    colours = {"psnr chroma": chroma_psnr(decoded, images, value_range=IMAGES)}
    return scores | colours | {"colours kept": colour_kept(decoded, images, value_range=IMAGES)}


@torch.no_grad()
def reconstruction_picture(
    source: Source, model: MagvitTokenizer, batch: TokenizerBatch, title: str
) -> bytes:
    """A PNG of a few held-out clips: frames, their reconstructions, and the difference."""
    n_frames = len(batch.images) // len(batch.clip_ids)
    psnr = reconstruction_scores(source, model, batch)["psnr"]
    shown = np.linspace(0, n_frames - 1, min(n_frames, PICTURE_FRAMES)).round().astype(int)
    strips = []
    for clip, clip_id in enumerate(batch.clip_ids[:PICTURE_CLIPS]):
        images = batch.images[clip * n_frames + torch.from_numpy(shown)]
        decoded = model.decode_ids(model.to_ids(images))
        difference = (decoded - images).abs() * DIFFERENCE_GAIN - 1
        rows = [("frames", images), ("from tokens", decoded)]
        drawn = [(label, picture_frames(source, row)) for label, row in rows]
        drawn.append((f"|difference|\nx {DIFFERENCE_GAIN}", picture_frames("rgb", difference)))
        note = f"{clip_id} (held out); mean over held-out clips {psnr:.1f} dB"
        strips.append(strip(drawn, columns=[f"frame {i}" for i in shown], title=title, note=note))
    return png_bytes(contact_sheet(strips))
