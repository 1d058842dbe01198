"""Clips and their free-running predictions, as strips of frames and as an animation."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from stages.drawing.pictures import Frames8, Image8, Row, colour_depth, contact_sheet, spread, strip
from stages.evaluation.generated_video import GeneratedVideo
from stages.evaluation.objects import OBJECTS
from stages.evaluation.scores import (
    CAMERA,
    COPY,
    FRAME,
    FREE,
    MODEL,
    MOVING,
    Cell,
    ClipVideos,
    Scores,
)
from stages.tokenizer.images import Source, images_to_rgb, picture_frames

FRAMES_SHOWN = 8
CELL_PX = 224  # side of a frame in the animation
SPEED = 2.0  # of animations, times real time
HOLD_FRAMES = 3  # by which the last frame of a clip stays longer


def draw_strip(clip: ClipVideos, scores: Scores, rate_hz: float) -> UInt8[np.ndarray, "h w 3"]:
    """The camera's frames, what their tokens keep of them, the prediction, and depth.

    Frame 0 is given.
    """
    shown = spread(len(clip.decoded), FRAMES_SHOWN)
    rows: list[Row] = [
        ("camera", images_to_rgb(clip.camera[shown])),
        ("its tokens\n(decoded)", images_to_rgb(clip.decoded[shown])),
        ("predicted", images_to_rgb(clip.predicted[FREE][shown])),
    ]
    if clip.depth is not None:
        rows.append(("true depth\n(decoded)", depth_colours(clip, clip.depth.decoded)[shown]))
        rows.append(("predicted\ndepth", depth_colours(clip, clip.depth.predicted[FREE])[shown]))
    columns = [f"{t / rate_hz:.1f} s" if t else "0 s (given)" for t in shown]
    return strip(
        rows, columns=columns, title=f"clip {clip.clip_id}", note=caption(scores), cell_px=128
    )


def depth_colours(
    clip: ClipVideos, inverse_depth: Float[Tensor, "t h w"]
) -> UInt8[np.ndarray, "t h w 3"]:
    assert clip.depth is not None
    inverse = inverse_depth.numpy()
    return colour_depth(inverse, np.ones(inverse.shape, bool), np.array(clip.depth.limits))


def caption(scores: Scores) -> str:
    """PSNR of the prediction against the camera, and of the copy of frame 0."""
    parts = []
    for label, region in (("", FRAME), ("moving region ", MOVING), ("objects ", OBJECTS)):
        ours = scores.get(Cell(FREE, CAMERA, region, MODEL, "psnr"))
        copied = scores.get(Cell(FREE, CAMERA, region, COPY, "psnr"))
        if ours is not None and copied is not None:
            parts.append(f"{label}{ours:.1f} dB (copying frame 0: {copied:.1f})")
    return "held out, free-running: " + ", ".join(parts)


def animate(clips: Sequence[ClipVideos], rate_hz: float) -> UInt8[np.ndarray, "t h w 3"]:
    """Camera, prediction and predicted depth side by side, clip after clip."""
    return pad_alike([frame for clip in clips for frame in animate_clip(clip, rate_hz)])


def pad_alike(frames: Sequence[Image8]) -> Frames8:
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    sides = [((0, height - f.shape[0]), (0, width - f.shape[1]), (0, 0)) for f in frames]
    return np.stack(
        [np.pad(f, pad, constant_values=255) for f, pad in zip(frames, sides, strict=True)]
    )


def animate_clip(clip: ClipVideos, rate_hz: float) -> list[Image8]:
    videos = {
        "camera": images_to_rgb(clip.camera),
        "predicted": images_to_rgb(clip.predicted[FREE]),
    }
    if clip.depth is not None:
        videos["predicted depth"] = depth_colours(clip, clip.depth.predicted[FREE])
    return side_by_side(videos, rate_hz, [clip.clip_id] * len(clip.decoded))


def side_by_side(
    videos: Mapping[str, UInt8[np.ndarray, "t h w 3"]], rate_hz: float, notes: Sequence[str]
) -> list[Image8]:
    """One picture per frame, with its time and note; the last one is repeated."""
    drawn = []
    for t, note in enumerate(notes):
        when = f"{t / rate_hz:4.1f} s" + (" (given)" if t == 0 else "")
        row: Row = ("", np.stack([video[t] for video in videos.values()]))
        drawn.append(strip([row], columns=list(videos), title=when, note=note, cell_px=CELL_PX))
    return drawn + drawn[-1:] * HOLD_FRAMES


def draw_generated(made: GeneratedVideo, rate_hz: float, note: str) -> UInt8[np.ndarray, "h w 3"]:
    """True (decoded) frames above predicted ones, for RGB and depth; white without a true one."""
    n = len(made.predicted["rgb"])
    shown, rows = spread(n, FRAMES_SHOWN), list[Row]()
    for source, predicted in made.predicted.items():
        true, ours = "true\n(decoded)", "predicted"
        if source == "depth":
            true, ours = "true depth\n(decoded)", "predicted\ndepth"
        rows.append((true, true_frames(made, source)[shown]))
        rows.append((ours, picture_frames(source, predicted[shown])))
    columns = [f"{t / rate_hz:.1f} s" if t else "0 s (given)" for t in shown]
    return strip(rows, columns=columns, title=f"clip {made.clip_id}", note=note, cell_px=128)


def animate_generated(made: GeneratedVideo, rate_hz: float) -> UInt8[np.ndarray, "t h w 3"]:
    """True, predicted and predicted depth side by side, noting where the last action is held."""
    videos = {
        "true (decoded)": true_frames(made, "rgb"),
        "predicted": picture_frames("rgb", made.predicted["rgb"]),
    }
    if "depth" in made.predicted:
        videos["predicted depth"] = picture_frames("depth", made.predicted["depth"])
    n = len(made.predicted["rgb"])
    n_given = min(n, made.course.n_given)
    notes = [made.clip_id] * n_given + [f"{made.clip_id}, last action held"] * (n - n_given)
    return pad_alike(side_by_side(videos, rate_hz, notes))


def true_frames(made: GeneratedVideo, source: Source) -> UInt8[np.ndarray, "t h w 3"]:
    """As many true frames as predicted ones; white after the clip's last one."""
    n, true = len(made.predicted[source]), picture_frames(source, made.true[source])
    lacking = max(0, n - len(true))
    return np.pad(true[:n], ((0, lacking), (0, 0), (0, 0), (0, 0)), constant_values=255)


def picture_page(
    clips: Sequence[ClipVideos], scores: Sequence[Scores], rate_hz: float
) -> UInt8[np.ndarray, "h w 3"]:
    return contact_sheet(
        [draw_strip(clip, found, rate_hz) for clip, found in zip(clips, scores, strict=True)]
    )
