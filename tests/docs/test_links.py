"""What README and docs name is there: files behind links, paths in backticks, names in the table of
questions.
"""

import re
from pathlib import Path

import pytest
from repository import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = (
    "pipeline/",
    "stages/",
    "model/",
    "storage/",
    "simulation/",
    "roboscape/",
    "docs/",
    "tests/",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_backticks_are_there(page: Path):
    for path in re.findall(r"`([\w./-]+)`", page.read_text()):
        if path.startswith(ROOMS) and "/" in path:
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_functions_are_where_the_architecture_says():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path, function in (
        ("model/world/losses.py", "keypoint_loss"),
        ("storage/stores/store.py", "commit"),
        ("pipeline/lineage/page.py", "publish"),
        ("pipeline/orchestration/flow_run.py", "journaled"),
    ):
        assert f"`{path}`" in text and f"`{function}`" in text
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text(), re.MULTILINE)
