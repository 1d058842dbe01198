"""Tokens of held-out clips -> what they keep of the frames: measures, limits and a verdict.

A world model can only show what its tokens hold, and whole-frame PSNR hides that small things are
gone. Files of the result: `tokens.md` (to read), `tokens.csv` (a row a clip), `tokens.png` (frames
and their tokens decoded, the worst objects or squares enlarged).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Int

from model.magvit2.autoencoder import MagvitTokenizer
from model.training.device import DeviceName, pick_device
from stages.base import DatasetStage, InputResults, InputRows, Inputs, Progress, Resources
from stages.batches import clip_ids_at, spread_rows, usable_rows
from stages.drawing.pictures import png_bytes
from stages.objects.true_objects import clip_objects
from stages.token_quality.measures import (
    MEASURES,
    DecodedClip,
    is_judged,
    means,
    measure,
    out_of_limits,
)
from stages.token_quality.pictures import quality_sheet
from stages.token_quality.report import page, table
from stages.tokenizer.decode import decode_clips, load_tokenizer, read_ids
from stages.tokenizer.images import rgb_to_images
from storage.atomic import write_file
from storage.stores.results import ResultWriter
from storage.stores.rows import Rows


@dataclass(frozen=True, kw_only=True)
class TokenQuality(DatasetStage):
    """Measures RGB tokens on clips of the `val` split; exact masks where the source has them.

    The limits make the verdict; a clip that breaks one is counted on the page. `refuse` ends the
    run where the means break one, before a world model is trained on such tokens.

    Limits are ours. The tokenizer that shipped first and erased most objects has, on the sample,
    0.10 of the colours kept, 15.1 dB inside objects, a colour error of 28.5 and 30 % named; frames
    with all objects erased and nothing else lost have 0.39, 12.8 dB, 31.2 and 29 %.
    """

    # Where the data set is, with or without `ground_truth`
    root: str = field(metadata={"key": False})
    n_clips: Annotated[int, Ge(1)] = 16  # at most, spread evenly over the usable ones
    min_colour_kept: Annotated[float, Interval(ge=0, le=1)] = 0.7
    min_objects_psnr: float = 18.0  # dB
    max_colour_error: Annotated[float, Ge(0)] = 10.0  # ΔE76 of an object's mean colour
    min_named: Annotated[float, Interval(ge=0, le=1)] = 0.9
    refuse: bool = False
    # None: a GPU where there is one
    device: DeviceName | None = field(default=None, metadata={"key": False})
    resources: Resources = field(
        default=Resources(cpus=1.0, memory_gb=2.0), metadata={"key": False}
    )

    name: ClassVar[str] = "token_quality"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {
        "discover": ("task", "episode", "split"),
        "clip": ("rgb", "frame_index"),
        "rgb_tokens": ("rgb_tokens",),
        "rgb_tokenizer": (),
    }

    def __post_init__(self) -> None:
        if self.n_clips < 1:
            raise ValueError(f"n_clips={self.n_clips}: expected 1 or more")

    @property
    def limits(self) -> dict[str, float]:
        return {m.limit: float(getattr(self, m.limit)) for m in MEASURES if m.limit}

    def run(
        self, rows: InputRows, results: InputResults, out: ResultWriter, progress: Progress
    ) -> dict[str, float]:
        device = pick_device(self.device)
        tokenizer = load_tokenizer(results["rgb_tokenizer"], "rgb").to(device)
        chosen = spread_rows(usable_rows(rows, "val"), self.n_clips)
        decoded, measured = [], []
        for clip in self.clips(rows, chosen, tokenizer):
            decoded.append(clip)
            measured.append(measure(clip))
            progress(len(measured), len(chosen), f"clip {clip.clip_id}")
        values = means(measured)
        broken = out_of_limits(values, self.limits)
        text = page(measured, self.limits, side=decoded[0].camera.shape[-1])
        write_file(out.path / "tokens.md", text.encode())
        write_file(out.path / "tokens.csv", table(measured, self.limits))
        write_file(out.path / "tokens.json", json.dumps(values, indent=1).encode())
        write_file(out.path / "tokens.png", png_bytes(quality_sheet(decoded, measured)))
        flagged = sum(bool(out_of_limits(clip.values, self.limits)) for clip in measured)
        numbers = {"clips": float(len(measured)), "clips_flagged": float(flagged), **values}
        if broken and self.refuse:
            said = ", ".join(
                f"{m.label} {m.text.format(values[m.name])} ({m.limit}={self.limits[m.limit]:g})"
                for m in broken
            )
            raise ValueError(
                f"these tokens do not keep the frames' contents: {said}. Train the tokenizer "
                "longer or with smaller cells, or set token_quality.refuse=false to go on"
            )
        return numbers | ({"good": float(not broken)} if is_judged(values) else {})

    def clips(
        self, rows: Mapping[str, Rows], chosen: Int[np.ndarray, " n"], tokenizer: MagvitTokenizer
    ) -> Iterator[DecodedClip]:
        """The chosen clips, decoded one by one, with their objects where there is truth."""
        for row in chosen:
            at = np.array([row])
            camera = rgb_to_images(rows["clip"].gather("rgb", at))[0]
            ids = torch.from_numpy(read_ids(rows["rgb_tokens"], "rgb_tokens", at)).long()
            size = (camera.shape[-2], camera.shape[-1])
            device = next(tokenizer.parameters()).device
            yield DecodedClip(
                clip_id=clip_ids_at(rows["clip"], at)[0],
                camera=camera,
                decoded=decode_clips(tokenizer, ids.to(device))[0],
                objects=clip_objects(rows, int(row), Path(self.root), size),
            )
