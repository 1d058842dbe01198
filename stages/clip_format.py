"""What all stages agree on about a clip: frames, rate and size. An experiment says it once."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

# Of the frames that an annotator sees: a rate, all that the source has, or None for the clip's own
AnnotationRate = Annotated[float, Interval(gt=0, le=1000)] | Literal["native"] | None
NATIVE_HZ = 30.0  # AGIBOT's; what a cost counts for "native", since the source is not read for it


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """Defaults are the paper's: 16 frames at 2 Hz, 256 px (Sec. 3.1)."""

    n_frames: Annotated[int, Interval(ge=2, le=4096)] = 16
    rate_hz: Annotated[float, Interval(gt=0, le=1000)] = 2.0
    # Px; the whole picture is squeezed to a square
    size: Annotated[int, Interval(ge=1, le=8192)] = 256

    def __post_init__(self) -> None:
        if self.n_frames < 2 or not self.rate_hz > 0 or self.size < 1:
            raise ValueError(
                f"n_frames={self.n_frames}, rate_hz={self.rate_hz}, size={self.size}: expected 2 "
                "or more frames, a rate above 0 and a size of 1 px or more"
            )

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.n_frames - 1) / self.rate_hz

    def frames_at(self, rate_hz: AnnotationRate) -> int:
        """How many frames a clip's span has at this rate, its own among them; a slower source has
        fewer.
        """
        if rate_hz is None:
            return self.n_frames
        rate = NATIVE_HZ if rate_hz == "native" else rate_hz
        return (self.n_frames - 1) * max(1, round(rate / self.rate_hz)) + 1

    def __str__(self) -> str:
        return f"{self.n_frames} frames of {self.size} px at {self.rate_hz:g} Hz"
