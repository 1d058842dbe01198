"""A predicted video: frames, depth and tokens of one rollout, to look at and to save."""

import base64
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from stages.depth.scaling import image_to_depth
from stages.drawing.pictures import png_bytes, write_gif, write_mp4
from stages.evaluation.generated_video import GeneratedVideo
from stages.evaluation.pictures import SPEED, animate_generated, draw_generated
from stages.tokenizer.images import images_to_rgb
from storage.atomic import write_file

SUFFIXES = (".mp4", ".gif", ".png")


@dataclass(frozen=True)
class DepthRange:
    """Which inverse depths the ends of a predicted depth stand for, and whose they are."""

    store: str  # `depth/KEY`
    limits: Float32[np.ndarray, " 2"]


class Video:
    """From `WorldModel.rollout`. Frame 0 is the clip's own, through the tokenizer; n frames in all.

    `len` counts the frames.
    """

    def __init__(
        self,
        made: GeneratedVideo,
        *,
        rate_hz: float,
        depth: DepthRange | None,
        how: str,
    ):
        self._made, self._rate_hz, self._depth, self._how = made, rate_hz, depth, how

    @property
    def clip_id(self) -> str:
        """Of the clip that gave frame 0."""
        return self._made.clip_id

    @property
    def rate_hz(self) -> float:
        """Frames per second."""
        return self._rate_hz

    @property
    def actions(self) -> Float32[np.ndarray, "n i a"]:
        """Actions that the model read, in the data set's units; those of t lead into frame t."""
        return self._made.course.actions

    @property
    def n_given_actions(self) -> int:
        """Frames with actions of their own; in those after them the last pose is held."""
        return self._made.course.n_given

    @cached_property
    def rgb(self) -> UInt8[np.ndarray, "n h w 3"]:
        """The predicted frames."""
        return images_to_rgb(self._made.predicted["rgb"])

    @cached_property
    def true_rgb(self) -> UInt8[np.ndarray, "t h w 3"]:
        """The clip's own frames through the tokenizer: the best that a prediction can be."""
        return images_to_rgb(self._made.true["rgb"])

    @cached_property
    def depth(self) -> Float32[np.ndarray, "n h w"] | None:
        """Predicted inverse depth, in the units of `Clip.depth`; None without a depth branch.

        Values lie in the range of the clip's own depths: the model predicts shares of it. Raises
        LookupError if the depth store behind the model's tokens, which has that range, is gone.
        """
        if "depth" not in self._made.predicted:
            return None
        if self._depth is None:
            raise LookupError(
                f"clip {self.clip_id}: the depth store that the model's depth tokens were made "
                "from is not in the workspace, so the units of the predicted depth are unknown"
            )
        shares = self._made.predicted["depth"].mean(dim=1).cpu().numpy()
        return image_to_depth(shares[None], self._depth.limits[None])[0]

    @property
    def depth_store(self) -> str | None:
        """`depth/KEY`, the labels in whose units `depth` is; None where it has none."""
        return None if self._depth is None else self._depth.store

    @cached_property
    def tokens(self) -> dict[str, Int[np.ndarray, "n gh gw"]]:
        """Predicted token ids, 18 bits each: `rgb`, and `depth` with a depth branch."""
        return {source: ids.numpy() for source, ids in self._made.tokens.items()}

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """A few frames side by side: true ones over predicted ones, and depth likewise."""
        return draw_generated(self._made, self._rate_hz, "; ".join(self._made.notes))

    def animation(self) -> UInt8[np.ndarray, "n h w 3"]:
        """True frames, predicted ones and predicted depth beside each other, with the time."""
        return animate_generated(self._made, self._rate_hz)

    def save(
        self, path: str | Path, *, plain: bool = False, fps: int | float | None = None
    ) -> Path:
        """Writes .mp4 or .gif (`animation`) or .png (`picture`), as `roboscape generate` does.

        plain: only the predicted frames, at their own size; a PNG has them side by side.
        fps: frames per second of the animation; by default twice as fast as life.
        Returns the path. Raises ValueError for another suffix.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: a video is saved as {', '.join(SUFFIXES)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            image = np.concatenate(self.rgb, axis=1) if plain else self.picture()
            write_file(path, png_bytes(image))
            return path
        write = write_mp4 if path.suffix == ".mp4" else write_gif
        write(path, self.rgb if plain else self.animation(), float(fps or SPEED * self._rate_hz))
        return path

    def __len__(self) -> int:
        return len(self._made.predicted["rgb"])

    def __repr__(self) -> str:
        n, _, h, w = self._made.predicted["rgb"].shape
        depth = ", with depth" if "depth" in self._made.predicted else ""
        return (
            f"<Video of clip {self.clip_id}: {n} frames of {h} x {w} px at {self._rate_hz:g} Hz"
            f"{depth}; {self._how}; {'; '.join(self._made.notes)}>"
        )

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture())

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            movie = self.save(Path(folder) / "video.mp4").read_bytes()
        data = base64.b64encode(movie).decode()
        return f'<video controls loop autoplay muted src="data:video/mp4;base64,{data}"></video>'
