"""What an experiment must be for its stages to understand each other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED
from pipeline.experiments.registry import check_units
from storage.weights.catalogue import find_published


def labels(taken: str | None, given: str) -> Any:
    """Of an experiment, only what the check looks at."""
    keypoints = SimpleNamespace() if taken is None else SimpleNamespace(depth_units=taken)
    depth = SimpleNamespace(units=given)
    return SimpleNamespace(
        keypoints=SimpleNamespace(annotator=keypoints), depth=SimpleNamespace(annotator=depth)
    )


def test_a_tracker_takes_depth_for_what_it_is():
    check_units(labels("1/m", "1/m"))
    check_units(labels(None, "relative"))  # a tracker that looks at no depth
    with pytest.raises(
        ValueError, match=r"depth_units='relative', but depth.annotator gives '1/m'"
    ):
        check_units(labels("relative", "1/m"))


def test_pseudo_labels_without_its_files_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    """On the command line, before anything is made. (That it differs in labels alone:
    test_choices.)
    """
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOSCAPE_WEIGHTS", str(tmp_path / "weights"))
    result = CliRunner().invoke(app, ["run", "pseudo-labels", "--source", str(tree)])
    assert result.exit_code == FAILED and not list(tmp_path.iterdir())
    for name in ("vda-vits", "spatracker"):
        weights = find_published(name)
        for told in (
            str(tmp_path / "weights" / weights.file),
            weights.page,
            f"roboscape weights fetch {name}",
        ):
            assert told in result.output
