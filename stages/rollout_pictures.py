"""Held-out clips beside their free-running predictions, as a picture of strips and as an animation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from stages.clip_scores import COPY, DECODED, FRAME, FREE, MODEL, MOVING, Cell, ClipVideos, Scores
from stages.images import images_to_rgb, picture_frames
from stages.pictures import Row, colour_depth, contact_sheet, spread, strip

FRAMES_SHOWN = 8
DIFFERENCE_GAIN = 3  # differences are drawn this much stronger
CELL_PX = 224  # side of a frame in the animation
HOLD_FRAMES = 3  # the last frame of a clip stands this much longer


def draw_strip(clip: ClipVideos, scores: Scores, rate_hz: float) -> UInt8[np.ndarray, "h w 3"]:
    """True frames (decoded), predicted ones, how they differ, and predicted depth; frame 0 is given."""
    predicted, shown = clip.predicted[FREE], spread(len(clip.decoded), FRAMES_SHOWN)
    difference = (predicted - clip.decoded).abs() * DIFFERENCE_GAIN - 1
    rows: list[Row] = [
        ("true\n(decoded)", images_to_rgb(clip.decoded[shown])),
        ("predicted", images_to_rgb(predicted[shown])),
        (f"|difference|\nx {DIFFERENCE_GAIN}", picture_frames("rgb", difference[shown])),
    ]
    if clip.depth is not None:
        rows.append(("true depth\n(decoded)", depth_colours(clip, clip.depth.decoded)[shown]))
        rows.append(("predicted\ndepth", depth_colours(clip, clip.depth.predicted[FREE])[shown]))
    columns = [f"{t / rate_hz:.1f} s" if t else "0 s (given)" for t in shown]
    return strip(rows, columns=columns, title=f"clip {clip.clip_id}", note=caption(scores), cell_px=128)


def depth_colours(clip: ClipVideos, inverse_depth: Float[Tensor, "t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    assert clip.depth is not None
    inverse = inverse_depth.numpy()
    return colour_depth(inverse, np.ones(inverse.shape, bool), np.array(clip.depth.limits))


def caption(scores: Scores) -> str:
    """PSNR of the prediction beside that of copying frame 0."""
    parts = []
    for label, region in (("", FRAME), ("moving region ", MOVING)):
        ours, copied = (scores.get(Cell(FREE, DECODED, region, method, "psnr")) for method in (MODEL, COPY))
        if ours is not None and copied is not None:
            parts.append(f"{label}{ours:.1f} dB (copying frame 0: {copied:.1f})")
    return "held out, free-running: " + ", ".join(parts)


def animate(clips: Sequence[ClipVideos], rate_hz: float) -> UInt8[np.ndarray, "t h w 3"]:
    """True, predicted and predicted depth side by side, one clip after the other."""
    frames = [frame for clip in clips for frame in animate_clip(clip, rate_hz)]
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    sides = [((0, height - f.shape[0]), (0, width - f.shape[1]), (0, 0)) for f in frames]
    return np.stack([np.pad(f, pad, constant_values=255) for f, pad in zip(frames, sides, strict=True)])


def animate_clip(clip: ClipVideos, rate_hz: float) -> list[UInt8[np.ndarray, "h w 3"]]:
    videos = {"true (decoded)": images_to_rgb(clip.decoded), "predicted": images_to_rgb(clip.predicted[FREE])}
    if clip.depth is not None:
        videos["predicted depth"] = depth_colours(clip, clip.depth.predicted[FREE])
    drawn = []
    for t in range(len(clip.decoded)):
        when = f"{t / rate_hz:4.1f} s" + (" (given)" if t == 0 else "")
        row: Row = ("", np.stack([video[t] for video in videos.values()]))
        drawn.append(strip([row], columns=list(videos), title=when, note=clip.clip_id, cell_px=CELL_PX))
    return drawn + drawn[-1:] * HOLD_FRAMES


def picture_page(clips: Sequence[ClipVideos], scores: Sequence[Scores], rate_hz: float) -> UInt8[np.ndarray, "h w 3"]:
    return contact_sheet([draw_strip(clip, found, rate_hz) for clip, found in zip(clips, scores, strict=True)])
