"""What a clip's tokens keep of its frames, as numbers, the limits on them, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from model.detail_metrics import chroma_psnr, colour_kept, detail_psnr
from model.metrics import psnr
from model.value_range import IMAGES
from stages.objects.masks import TrueObjects
from stages.objects.object_scores import object_scores, smallest_held
from stages.objects.sightings import Sighting, sightings, without_objects

Values = dict[str, float]  # by the names of `MEASURES`; what was not measured is missing


@dataclass(frozen=True, kw_only=True)
class TokenMeasure:
    """limit: the stage's field that bounds it, `max_...` or `min_...`; empty if none does."""

    name: str
    label: str
    text: str  # format of its values
    limit: str = ""

    def violates(self, value: float, limit: float) -> bool:
        return value > limit if self.limit.startswith("max_") else value < limit


MEASURES = (
    TokenMeasure(name="psnr", label="PSNR, whole frame", text="{:.1f} dB"),
    TokenMeasure(name="chroma_psnr", label="PSNR of the chroma", text="{:.1f} dB"),
    TokenMeasure(name="detail_psnr", label="PSNR in the most detailed tenth", text="{:.1f} dB"),
    TokenMeasure(
        name="colour_kept",
        label="colours kept",
        text="{:.0%}",
        limit="min_colour_kept",
    ),
    TokenMeasure(
        name="objects_psnr", label="PSNR inside objects", text="{:.1f} dB", limit="min_objects_psnr"
    ),
    TokenMeasure(
        name="objects_colour_error",
        label="colour error of an object (ΔE76)",
        text="{:.1f}",
        limit="max_colour_error",
    ),
    TokenMeasure(name="objects_delta_e", label="ΔE00 inside objects", text="{:.1f}"),
    TokenMeasure(
        name="objects_named",
        label="objects named rightly by colour",
        text="{:.0%}",
        limit="min_named",
    ),
    TokenMeasure(name="objects_present", label="objects still there", text="{:.0%}"),
)


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip, and what its tokens decode to, in [-1, 1]."""

    clip_id: str
    camera: Float[Tensor, "t c h w"]
    decoded: Float[Tensor, "t c h w"]
    objects: TrueObjects | None


@dataclass(frozen=True, kw_only=True)
class ClipQuality:
    """The numbers of one clip, and the objects seen in it: decoded, and in the control."""

    clip_id: str
    values: Values
    seen: Sequence[Sighting] = ()
    erased: Sequence[Sighting] = ()


def measure(clip: DecodedClip) -> ClipQuality:
    pair = clip.decoded[None], clip.camera[None]
    values: Values = {
        "psnr": psnr(*pair, value_range=IMAGES).item(),
        "chroma_psnr": chroma_psnr(*pair, value_range=IMAGES).item(),
        "detail_psnr": detail_psnr(*pair, value_range=IMAGES).item(),
        "colour_kept": colour_kept(*pair, value_range=IMAGES).item(),
    }
    if not np.isfinite(values["colour_kept"]):
        del values["colour_kept"]
    if clip.objects is None:
        return ClipQuality(clip_id=clip.clip_id, values=values)
    # The control: the same objects in frames from which all objects were erased
    seen = sightings(clip.decoded, clip.camera, clip.objects)
    control = without_objects(clip.camera, clip.objects.masks)
    erased = sightings(control, clip.camera, clip.objects)
    return ClipQuality(
        clip_id=clip.clip_id, values=values | object_values(seen), seen=seen, erased=erased
    )


def object_values(seen: Sequence[Sighting]) -> Values:
    scores = object_scores(seen)
    if scores is None:
        return {}
    named = {} if scores.named is None else {"objects_named": scores.named}
    return named | {
        "objects_psnr": scores.psnr,
        "objects_colour_error": scores.colour_error,
        "objects_delta_e": scores.delta_e,
        "objects_present": scores.present,
    }


def means(clips: Sequence[ClipQuality]) -> Values:
    """Over clips; of objects, over all that were seen."""
    pooled = object_values([seen for clip in clips for seen in clip.seen])
    names = [m.name for m in MEASURES if m.name not in pooled]
    found = {name: [c.values[name] for c in clips if name in c.values] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values} | pooled


def out_of_limits(values: Values, limits: Mapping[str, float]) -> list[TokenMeasure]:
    """The measures that break their limit. limits: by `TokenMeasure.limit`."""
    return [
        m
        for m in MEASURES
        if m.limit and m.name in values and m.violates(values[m.name], limits[m.limit])
    ]


def is_judged(values: Values) -> bool:
    """Whether anything with a limit was measured."""
    return any(m.limit and m.name in values for m in MEASURES)


def smallest_px(clips: Sequence[ClipQuality], min_named: float, side: int) -> float | None:
    """The smallest object that is held, in pixels of a frame of side x side; None if none is."""
    area = smallest_held([seen for clip in clips for seen in clip.seen], min_named)
    return None if area is None else area * side**2
