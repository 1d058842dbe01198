"""Files of the episodes that change after a run: what a plan says, and what a re-run makes."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli.plan import print_plan
from pipeline.orchestration.dataset_stage import run_dataset
from pipeline.orchestration.journal import Journal, start_journal
from pipeline.orchestration.plan import planned, stages_to_rerun
from pipeline.orchestration.recipe import describe
from pipeline.settings import Settings
from storage.stores import store

VIDEO = "observations/327/648642/videos/head_color.mp4"


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "root"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", prefect_port=4999)


@pytest.fixture
def journal(root: Path, settings: Settings) -> Journal:
    """Of a run that made the index of the episodes, and nothing after it."""
    request = {"experiment": "smoke", "source": str(root)}
    stage, inputs, out = planned(request, settings).planned["discover"]
    store.create(out, describe(stage, inputs, out))
    run_dataset(stage, inputs, out, lambda done, total, note="": None)  # type: ignore[arg-type]
    journal = start_journal(settings.runs, request)
    journal.entry("discover").uri = out.uri
    return journal


def mend(file: Path) -> None:
    """Other bytes, the same size."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def plan_of(journal: Journal, settings: Settings) -> str:
    text = io.StringIO()
    print_plan(journal.request, settings, Console(file=text, width=400))
    return text.getvalue()


def test_a_plan_names_the_files_that_changed(journal, root, settings):
    assert "complete" in plan_of(journal, settings)
    mend(root / VIDEO)
    (root / "observations/327/648642/videos/[odd].mp4").write_bytes(b"")
    plan = plan_of(journal, settings)
    assert f"1 file changed ({VIDEO}), 1 added" in plan and "[odd].mp4" in plan


def test_a_rerun_makes_first_what_the_changed_files_need(journal, root, settings):
    stages, note = stages_to_rerun(journal, settings, "depth", and_after=False)
    assert stages == ["depth"] and not note, "what is missing, and the files are the same"
    mend(root / VIDEO)
    stages, note = stages_to_rerun(journal, settings, "depth", and_after=False)
    assert stages == ["discover", "clip", "depth"]
    assert "have changed since" in note and "discover, clip" in note
    after, _ = stages_to_rerun(journal, settings, "clip", and_after=True)
    assert after[:4] == ["discover", "clip", "depth", "keypoints"]
    with pytest.raises(LookupError, match="no stage 'nonsense'"):
        stages_to_rerun(journal, settings, "nonsense", and_after=False)
