"""What an experiment must be for its stages to understand each other."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.experiments import check_units


def labels(taken: str | None, given: str) -> Any:
    """Of an experiment, only what the check looks at."""
    keypoints = SimpleNamespace() if taken is None else SimpleNamespace(depth_units=taken)
    depth = SimpleNamespace(units=given)
    return SimpleNamespace(keypoints=SimpleNamespace(annotator=keypoints), depth=SimpleNamespace(annotator=depth))


def test_a_tracker_takes_depth_for_what_it_is():
    check_units(labels("1/m", "1/m"))
    check_units(labels(None, "relative"))  # a tracker that looks at no depth
    with pytest.raises(ValueError, match=r"depth_units='relative', but depth.annotator gives '1/m'"):
        check_units(labels("relative", "1/m"))
