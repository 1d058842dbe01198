"""Missing weights are found on the command line, before anything is written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED
from storage.weights.catalogue import find_published


def test_pseudo_labels_without_its_files_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOSCAPE_WEIGHTS", str(tmp_path / "weights"))
    result = CliRunner().invoke(app, ["run", "pseudo-labels", "--source", str(tree)])
    assert result.exit_code == FAILED and not list(tmp_path.iterdir())
    for name in ("vda-vits", "spatracker"):
        weights = find_published(name)
        file, fetch = tmp_path / "weights" / weights.file, f"roboscape weights fetch {name}"
        assert all(said in result.output for said in (str(file), weights.page, fetch))
