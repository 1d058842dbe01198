"""docs/extending.md does what it says: its code is run as it stands."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from small_stores import SIDE, square_clips, write_clips, write_index

from stages.base import ClipStage
from stages.depth.stage import PseudoDepth

TEXT = (ROOT / "docs" / "extending.md").read_text()
LONGEST = 40  # lines of an example


def blocks(heading: str) -> list[str]:
    """The Python of one section, in order."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `workspace` with a few clips, and `episodes`."""
    folder = tmp_path_factory.mktemp("extending")
    index = write_index(folder / "workspace", ["train"] * 3)
    write_clips(index, "clip", square_clips(3)["clip"])
    (folder / "episodes").mkdir()
    return folder


@pytest.fixture(scope="module")
def names(workspace: Path) -> dict[str, Any]:
    """What the text has defined after all of it ran, and what it printed under `printed`."""
    found: dict[str, Any] = {}
    printed = io.StringIO()
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("stages.clips.discover.fingerprint", lambda root: "0" * 64)
        os.chdir(workspace)
        try:
            for heading in ("A clip stage", "An annotator", "An experiment"):
                for block in blocks(heading):
                    exec(compile(block, f"extending.md: {heading}", "exec"), found)
        finally:
            os.chdir(before)
    return found | {"printed": printed.getvalue()}


@pytest.mark.parametrize("heading", ["A clip stage", "An annotator", "An experiment"])
def test_an_example_is_short(heading: str):
    whole = blocks(heading)[0]
    assert 10 < len(whole.splitlines()) < LONGEST


def test_the_stage_makes_its_array(names: dict[str, Any]):
    stage = names["Sharpness"]()
    assert isinstance(stage, ClipStage)
    made = names["made"]
    values = made.gather("sharpness", made.ok.nonzero()[0])
    assert values.shape == (3, 16) and (values > 0).all()


def test_the_annotator_makes_depth(names: dict[str, Any]):
    stage = names["depth"]
    assert isinstance(stage, PseudoDepth) and stage.attributes["annotator"] == "table-plane"
    assert stage.outputs[0].shape == (16, SIDE, SIDE)
    assert "inverse_depth" in names["printed"]


def test_the_experiment_shares_all_that_comes_before(names: dict[str, Any], workspace: Path):
    plan, small = names["plan"], names["small"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.clips.discover.fingerprint", lambda root: "0" * 64)
        source, weights = workspace / "episodes", workspace / "weights"
        ours, theirs = plan(names["without_depth"](source, weights), "w"), plan(small(source), "w")
    differing = {name for name, (*_, ref) in ours.planned.items() if ref != theirs.planned[name][2]}
    assert differing == {"world_model", "evaluation"}
    assert "depth_branch=False" in names["printed"]
