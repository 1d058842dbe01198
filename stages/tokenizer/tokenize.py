"""Frames or inverse depth -> tokens, frame by frame, with a trained tokenizer.

RGB and depth are two instances of one class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from model.magvit2.batched import Precision, encode_frames
from stages.base import Arrays, ClipFunction, ClipStage, Inputs, Resources, per_clip
from stages.clip_format import ClipFormat
from stages.drawing.pictures import contact_sheet, spread, strip
from stages.tokenizer.decode import load_tokenizer
from stages.tokenizer.images import READS, Source, images_of, picture_frames
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec


@dataclass(frozen=True, kw_only=True)
class Tokens(ClipStage):
    """A clip's `rgb_tokens` or `depth_tokens`: ids of 18 bits, least significant bit first."""

    source: Source
    grid: tuple[int, int]  # token rows and columns of a frame: its size over the tokenizer's cell
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames",)})
    # bfloat16 is faster on GPUs; latents near 0 may get the other bit
    precision: Precision = "float32"
    resources: Resources = field(
        default=Resources(cpus=1.0, memory_gb=2.0, clips_per_shard=64), metadata={"key": False}
    )

    version: ClassVar[int] = 1

    @property
    def name(self) -> str:
        return f"{self.source}_tokens"

    @property
    def inputs(self) -> Inputs:
        role, arrays = READS[self.source]
        return {role: arrays, "tokenizer": ()}

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        # Uncompressed, so that training can memory-map them; -1 is no token and marks a hole
        about = f"MAGVIT-2 tokens of {'RGB frames' if self.source == 'rgb' else 'inverse depth'}"
        shape = (self.clip_format.n_frames, *self.grid)
        axes = ("t", "gh", "gw")
        return (ArraySpec(self.name, "int32", axes, shape, "token id", about, "raw", fill=-1),)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        tokenizer = load_tokenizer(results["tokenizer"], self.source).to(device)

        def tokenize(**arrays: np.ndarray) -> Arrays:
            images = self._images(arrays)
            ids = encode_frames(tokenizer, images, precision=self.precision)
            if tuple(ids.shape[1:]) != self.grid:
                raise ValueError(
                    f"{self.name}: frames of {tuple(images.shape[-2:])} px give a "
                    f"{tuple(ids.shape[1:])} grid of tokens, the stage says {self.grid}; its grid "
                    f"must be the frame's size over {tokenizer.config.downscale} px, the side of a "
                    "token's cell"
                )
            return {self.name: ids.cpu().numpy()}

        return per_clip(tokenize)

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A few clips, each with its frames above their tokens."""
        return contact_sheet([self._strip(own, inputs, row) for row in picks])

    def _strip(self, own: Rows, inputs: Mapping[str, Rows], row: int) -> UInt8[np.ndarray, "h w 3"]:
        role, names = READS[self.source]
        images = self._images(inputs[role].read(names, row))
        ids, shown = own.read((self.name,), row)[self.name], spread(self.clip_format.n_frames, 8)
        same = 100 * (ids[1:] == ids[:-1]).mean()
        note = f"{same:.0f} % of tokens are those of the frame before"
        drawn = [
            (self.source, picture_frames(self.source, images)[shown]),
            ("tokens", colour_ids(ids)[shown]),
        ]
        return strip(
            drawn, title=f"clip {own.clip_ids[row]}", note=note, columns=[f"{t}" for t in shown]
        )

    def _images(self, clip: Mapping[str, np.ndarray]) -> Float[Tensor, "t c h w"]:
        return images_of(self.source, {name: array[None] for name, array in clip.items()})[0]


def colour_ids(ids: Integer[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any 3"]:
    """A colour for each of the 2**18 tokens: bits 0-5 are red, 6-11 green, 12-17 blue.

    Similar colours do not mean similar tokens.
    """
    return ((ids[..., None] >> np.array([0, 6, 12])) % 64 * 4).astype(np.uint8)
