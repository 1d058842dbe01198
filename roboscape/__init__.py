"""RoboScape in Python: clips and their labels, world models and their predictions, runs.

    import roboscape as rs

    ws = rs.open("workspace")                      # or "s3://bucket/prefix"; reads, needs no server
    clip = ws.clips()[3]
    video = ws.world_model().rollout(clip, n_frames=40)
    rs.metrics.compare(video, clip)

Arrays are NumPy. Nothing is imported before it is used: `rs.open` and clips need no PyTorch, and
only `rs.run` needs Prefect and Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roboscape import metrics
    from roboscape.clip import Clip
    from roboscape.clips import Clips
    from roboscape.errors import RejectedClip
    from roboscape.experiment import run
    from roboscape.lineage import Lineage
    from roboscape.video import Video
    from roboscape.workspace import Workspace, open
    from roboscape.world_model import WorldModel

__all__ = [
    "Clip",
    "Clips",
    "Lineage",
    "RejectedClip",
    "Video",
    "Workspace",
    "WorldModel",
    "metrics",
    "open",
    "run",
]

# No module is called as a name that is exported: importing one would put it in the name's place.
_HOMES = {
    "Clip": "roboscape.clip",
    "Clips": "roboscape.clips",
    "Lineage": "roboscape.lineage",
    "RejectedClip": "roboscape.errors",
    "Video": "roboscape.video",
    "Workspace": "roboscape.workspace",
    "WorldModel": "roboscape.world_model",
    "open": "roboscape.workspace",
    "run": "roboscape.experiment",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("roboscape.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'roboscape' has no attribute '{name}'; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
