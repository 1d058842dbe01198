"""Pictures of clips for notebooks."""

import numpy as np
from jaxtyping import UInt8

from roboscape.clip import Clip
from roboscape.errors import RejectedClip
from stages.drawing.pictures import Row, colour_depth, draw_tracks, spread, strip

FRAMES_SHOWN = 8


def clip_strip(clip: Clip) -> UInt8[np.ndarray, "h w 3"]:
    """Frames side by side, over their depth and tracks where the clip has them."""
    rgb = clip.rgb
    shown = spread(len(rgb), FRAMES_SHOWN)
    rows: list[Row] = [("camera", rgb[shown])]
    inverse, valid, limits = (
        _label(clip, f"depth/{name}") for name in ("inverse_depth", "valid", "inverse_depth_range")
    )
    if inverse is not None and valid is not None and limits is not None:
        rows.append(("depth", colour_depth(inverse, valid, limits)[shown]))
    tracks, visible = _label(clip, "tracks"), _label(clip, "visible")
    if tracks is not None and visible is not None:
        rows.append(("tracks", draw_tracks(rgb, tracks, visible)[shown]))
    columns = [f"{t / clip.rate_hz:.1f} s" for t in shown]
    return strip(rows, columns=columns, title=f"clip {clip.clip_id}", note=f"row {clip.row}")


def _label(clip: Clip, name: str) -> np.ndarray | None:
    """None where there is no such store, or it rejected the clip."""
    try:
        return clip[name]
    except (LookupError, RejectedClip):
        return None
