"""Where this machine keeps what it can make again."""

import os
from pathlib import Path


def cache_home() -> Path:
    """ROBOSCAPE_CACHE, or ~/.cache/roboscape."""
    return Path(os.environ.get("ROBOSCAPE_CACHE", Path.home() / ".cache" / "roboscape"))
