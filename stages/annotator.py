"""What annotators of depth and of keypoints have in common: what they declare, and checks of
settings and frames.

An annotator is a frozen dataclass in one field of its stage, so its fields are parameters of the
stage. Wrong settings are refused where it is built, not clip by clip.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np

from stages.base import ClipInputs, ClipStage, Rejected, ResourceName, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from storage.weights.ref import WeightsRef

LIBRARIES_GB = 1.0  # torch and the worker itself, beside the network
# The attribute of a store whose labels are not pseudo labels, and its text
EXACT = "exact_labels"
EXACT_TEXT = "exact ground truth of simulated episodes, no pseudo labels"
OWN = ".safetensors"  # weights that this repository's commands made; others are published pickles


class Annotator(ABC):
    """`name` and `version` are among its fields, or follow from them: they are part of the key."""

    # The clips that it is made for; None if it takes any. The experiment sets it, see `ClipFormat`.
    clip_format: ClipFormat | None = None
    # The rate and the size of the frames that it sees, see `stages.annotation_frames`: None is the
    # clip's own. Any other rate needs the folder of the episodes.
    annotation_rate_hz: AnnotationRate = None
    frame_px: int | None = None
    root: str | None = None

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def version(self) -> int: ...

    def ask_for_less(self, resource: ResourceName) -> str | None:
        """Its own setting that asks for less of a resource, such as `gpus=0`; None if there is
        none.
        """
        return None

    def frames_seen(self, clip_format: ClipFormat) -> int:
        """Frames of a clip's span that it is run on."""
        return clip_format.frames_at(self.annotation_rate_hz)

    def side_px(self, clip_format: ClipFormat) -> int:
        """Of the frames that it sees: the clip's own frames have the clip's size."""
        if self.frame_px is None or self.annotation_rate_hz is None:
            return clip_format.size
        return self.frame_px

    def check_rate(self) -> None:
        """Raises ValueError for a rate that no frames can have, or without a source of frames."""
        who, rate = type(self).__name__, self.annotation_rate_hz
        is_number = isinstance(rate, int | float) and 0 < rate < float("inf")
        if not (is_number or rate in (None, "native")):
            raise ValueError(
                f"{who}: annotation_rate_hz={rate!r}, expected a rate above 0, 'native' for all of "
                "the source's frames, or null for the clip's own"
            )
        if rate is not None and self.root is None:
            raise ValueError(
                f"{who}: annotation_rate_hz={rate!r} without `root`, the folder of the episodes, "
                "whose videos have these frames: give it, or take annotation_rate_hz=null"
            )


class NetworkAnnotator(Annotator):
    """One of the paper's: a network by its weights, on a share of a GPU or on a CPU."""

    weights: WeightsRef
    clip_format: ClipFormat  # type: ignore[assignment]  # its cost and its windows depend on it
    precision: str
    clips_per_call: int
    gpus: float
    cpus: float

    @property
    def name(self) -> str:
        return self.weights.name.removesuffix(OWN)

    def network_resources(self, peak_bytes: int) -> Resources:
        """peak_bytes: of a call; on a GPU they are the card's."""
        memory = LIBRARIES_GB + (0 if self.gpus else peak_bytes / 1e9)
        return Resources(
            cpus=self.cpus, gpus=self.gpus, memory_gb=memory, clips_per_call=self.clips_per_call
        )

    def ask_for_less(self, resource: ResourceName) -> str | None:
        if resource == "memory_gb":
            return "clips_per_call=1" if self.clips_per_call > 1 else None
        return "gpus=0" if resource == "gpus" else f"{resource}=..."

    def check_share(self) -> None:
        """Raises ValueError for a share of a worker's device that the precision does not allow."""
        who = type(self).__name__
        if self.clips_per_call < 1:
            raise ValueError(f"{who}: clips_per_call={self.clips_per_call}, expected 1 or more")
        if self.gpus < 0:
            raise ValueError(f"{who}: gpus={self.gpus:g}, expected 0 or more")
        if self.precision != "float32" and not self.gpus:
            raise ValueError(
                f"{who}: precision={self.precision!r} with gpus=0, but half precision is for GPUs: "
                "set gpus too (0.5 is half a card), or take precision=float32"
            )


class AnnotatedStage(ClipStage):
    """A stage whose arrays an annotator makes."""

    annotator: Annotator
    clip_format: ClipFormat

    def __post_init__(self) -> None:
        made_for = self.annotator.clip_format
        if made_for not in (None, self.clip_format):
            raise ValueError(
                f"stage '{self.name}' takes clips of {self.clip_format}, but its annotator "
                f"{self.annotator.name} is set to {made_for}: give both the same clip_format"
            )

    @property
    def expected_cost(self) -> str:
        cost = self.attributes.get("expected_cost")
        return f"by {self.annotator.name}: {cost}" if cost else ""

    def ask_for_less(self, resource: ResourceName) -> str | None:
        setting = self.annotator.ask_for_less(resource)
        return setting and f"{self.config_name}.annotator.{setting}"


def of_one_length(clips: Sequence[ClipInputs]) -> Iterator[list[ClipInputs]]:
    """The clips by their number of frames, which differs where a source has gaps."""
    for n_frames in dict.fromkeys(len(clip.arrays["rgb"]) for clip in clips):
        yield [clip for clip in clips if len(clip.arrays["rgb"]) == n_frames]


def check_choice(who: str, name: str, value: object, choices: Any) -> None:
    """Raises ValueError for a value that is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{who}: {name}={value!r}, expected one of {', '.join(get_args(choices))}")


def check_frames(clip: ClipInputs, n_frames: int | None, min_contrast: float, stage: str) -> None:
    """Raises ValueError for a clip of another length or dtype, Rejected (`blank_frame`) where a
    frame has no contrast.

    Frames of uint8 hold no NaN; others could, and their scale is not known.
    n_frames: None if the clip has as many as the source gave.
    min_contrast: least standard deviation of a frame's grey levels (0-255).
    """
    rgb = clip.arrays["rgb"]
    if rgb.dtype != np.uint8:
        raise ValueError(
            f"clip {clip.clip_id}: frames of {rgb.dtype}, stage '{stage}' expects uint8 in 0-255, "
            "as stage 'clip' writes them: convert them"
        )
    if n_frames is not None and len(rgb) != n_frames:
        raise ValueError(
            f"clip {clip.clip_id}: {len(rgb)} frames, stage '{stage}' is set to "
            f"n_frames={n_frames}; give stages 'clip' and '{stage}' the same clip_format"
        )
    contrast = rgb.mean(axis=3).std(axis=(1, 2))
    dullest = int(contrast.argmin())
    if contrast[dullest] < min_contrast:
        raise Rejected(
            "blank_frame",
            f"frame {dullest}: grey levels have a standard deviation of {contrast[dullest]:.2f}, "
            f"at least {min_contrast:g} is needed to see or follow anything",
        )
