"""AGIBOT-World (Alpha and Beta) on disk, extracted or in the hub's tars: what is there, and its
sensors as arrays.
"""

from storage.sources.agibot.calibration import (
    Intrinsics,
    read_depth_png,
    read_extrinsics,
    read_intrinsics,
)
from storage.sources.agibot.proprio import Proprio, ProprioHeader, read_proprio, read_proprio_header
from storage.sources.agibot.tree import (
    Episode,
    EpisodeInfo,
    Listing,
    Segment,
    depth_frames,
    fingerprint,
    list_episodes,
)

__all__ = [
    "Episode",
    "EpisodeInfo",
    "Intrinsics",
    "Listing",
    "Proprio",
    "ProprioHeader",
    "Segment",
    "depth_frames",
    "fingerprint",
    "list_episodes",
    "read_depth_png",
    "read_extrinsics",
    "read_intrinsics",
    "read_proprio",
    "read_proprio_header",
]
