"""Clip -> pseudo depth: inverse depth of every pixel, by an annotator that the experiment chooses.

Paper, Sec. 3.1. The stage has what all annotators share: the arrays in the store, the checks, and
the range by which inverse depth becomes an image in [-1, 1] for the tokenizer. An annotator is a
frozen dataclass such as `SensorDepth`, the value of one field.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Bool, Float32, Int64, UInt8

from stages.annotation_frames import annotate_frames, frame_inputs, frame_resources
from stages.annotator import AnnotatedStage, Annotator
from stages.base import Arrays, ClipFunction, ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.depth.scaling import QUANTILES, inverse_depth_range
from stages.drawing.pictures import Row, colour_depth, contact_sheet, spread, strip
from stages.label_noise import DepthNoise
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec

DepthUnits = Literal["relative", "1/m"]


@dataclass(frozen=True, kw_only=True)
class DepthEstimate:
    """inverse_depth: larger is nearer, in the annotator's units; undefined where not valid."""

    inverse_depth: Float32[np.ndarray, "t h w"]
    valid: Bool[np.ndarray, "t h w"]

    def sampled(self, frames: Int64[np.ndarray, " i"]) -> "DepthEstimate":
        """Of these frames only."""
        return DepthEstimate(inverse_depth=self.inverse_depth[frames], valid=self.valid[frames])


class DepthAnnotator(Annotator):
    """Estimates inverse depth. units: `1/m`, or `relative` if known up to scale and shift only."""

    resources: Resources = Resources()
    cameras: tuple[str, ...] | None = None  # those that it works for; None if it does for any

    @property
    @abstractmethod
    def units(self) -> DepthUnits: ...

    @property
    @abstractmethod
    def inputs(self) -> Inputs:
        """Arrays of the roles `discover` and `clip` that it reads."""

    @property
    def attributes(self) -> Mapping[str, str]:
        """What reports say of it; `stand_in_for` names the annotator that it replaces."""
        return {}

    @abstractmethod
    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        """The function that a worker calls; it estimates depth of each frame that it is given, at
        the clip format's size.
        """


@dataclass(frozen=True, kw_only=True)
class PseudoDepth(AnnotatedStage):
    """max_hole_share: of a frame's pixels; if more are unknown the clip is rejected (`holes`)."""

    annotator: DepthAnnotator
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames", "size")})
    max_hole_share: Annotated[float, Interval(ge=0, le=1)] = 0.5
    # For studies: spoils what the annotator found
    spoil: DepthNoise | None = field(default=None, metadata={"added": True})

    name: ClassVar[str] = "depth"
    version: ClassVar[int] = 1

    @property
    def inputs(self) -> Inputs:
        return frame_inputs(self.annotator, self.annotator.inputs)

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        t, size = self.clip_format.n_frames, self.clip_format.size
        units, axes, shape = self.annotator.units, ("t", "h", "w"), (t, size, size)
        low, high = (f"{100 * q:g}" for q in QUANTILES)
        about = f"percentiles {low} and {high} of the clip's valid inverse depths: "
        about += "-1 and 1 as an image"
        near = "larger is nearer; 0 where not valid"
        return (
            ArraySpec("inverse_depth", "float16", axes, shape, units, near, "zstd"),
            ArraySpec("valid", "bool", axes, shape, "1", "whether the annotator knows the depth"),
            ArraySpec("inverse_depth_range", "float32", ("i",), (2,), units, about),
        )

    @property
    def attributes(self) -> dict[str, str]:
        made_by = {"annotator": self.annotator.name, "units": self.annotator.units}
        spoiled = self.spoil.attributes if self.spoil else {}
        return {**made_by, **self.annotator.attributes, **spoiled}

    @property
    def resources(self) -> Resources:
        return frame_resources(self.annotator, self.annotator.resources, self.clip_format)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        estimate = self.annotator.start(device)
        n = self.annotator.resources.clips_per_call

        def annotate(clips: Sequence[ClipInputs]) -> list[Arrays | Rejected]:
            found = annotate_frames(estimate, clips, self.annotator, self.clip_format, n)
            pairs = zip(found, clips, strict=True)
            return [self.checked(estimated, clip.clip_id) for estimated, clip in pairs]

        return annotate

    def checked(self, estimated: DepthEstimate | Rejected, clip_id: str) -> Arrays | Rejected:
        """The clip's arrays, checked, and spoiled if this is wanted."""
        if isinstance(estimated, Rejected):
            return estimated
        try:
            check_estimate(estimated, self.max_hole_share)
            inverse = np.where(estimated.valid, estimated.inverse_depth, 0)
            if self.spoil:
                inverse = self.spoil.spoil(inverse.astype(np.float32), clip_id)
            inverse = inverse.astype(np.float16)
            limits = inverse_depth_range(inverse, estimated.valid)
        except Rejected as rejected:
            return rejected
        return {"inverse_depth": inverse, "valid": estimated.valid, "inverse_depth_range": limits}

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A few clips, camera frames above depth."""
        return contact_sheet([self._strip(own, inputs, row) for row in picks])

    def _strip(self, own: Rows, inputs: Mapping[str, Rows], row: int) -> UInt8[np.ndarray, "h w 3"]:
        arrays = own.read(("inverse_depth", "valid", "inverse_depth_range"), row)
        shown = spread(self.clip_format.n_frames, 8)
        depth = (f"depth\n({self.annotator.name})", colour_depth(**arrays)[shown])
        rows: list[Row] = [depth]
        if "clip" in inputs:
            rows = [("camera", inputs["clip"].read(("rgb",), row)["rgb"][shown]), depth]
        title, frames = f"clip {own.clip_ids[row]}", [f"{t}" for t in shown]
        holes = f"{100 * (1 - arrays['valid'].mean()):.1f} % unknown"
        return strip(rows, title=title, note=holes, columns=frames)


def check_estimate(estimated: DepthEstimate, max_hole_share: float) -> None:
    """Raises Rejected: `nan_depth` (a valid pixel that float16 cannot hold), `holes`."""
    known = estimated.inverse_depth[estimated.valid]
    limit = float(np.finfo(np.float16).max)
    bad = int((~(np.abs(known) <= limit)).sum())  # NaN compares as false
    if bad:
        raise Rejected(
            "nan_depth", f"{bad} of {known.size} known pixels are NaN, infinite or above {limit:g}"
        )
    holes = 1 - estimated.valid.mean(axis=(1, 2))
    worst = int(holes.argmax())
    if holes[worst] > max_hole_share:
        raise Rejected(
            "holes",
            f"frame {worst}: {holes[worst]:.1%} of the pixels are unknown, "
            f"at most {max_hole_share:.0%} may be",
        )
