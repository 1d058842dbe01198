"""What all stages agree on about a clip: frames, rate and size. An experiment says it once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """Defaults are the paper's: 16 frames at 2 Hz, 256 px (Sec. 3.1)."""

    n_frames: int = 16
    rate_hz: float = 2.0
    size: int = 256  # px; the whole picture is squeezed to a square

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

    def __str__(self) -> str:
        return f"{self.n_frames} frames of {self.size} px at {self.rate_hz:g} Hz"
