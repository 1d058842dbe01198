"""`roboscape compare`: evaluations by many names, tables and pictures in a folder."""

import json

import pytest
from made_scores import made_evaluation
from PIL import Image
from small_world import World, make_world
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED, USAGE
from pipeline.orchestration.journal import start_journal
from storage.stores.results import Result


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def evaluations(world) -> list[Result]:
    return [world.evaluate(seed=seed, n_clips=4, n_pictures=1) for seed in (0, 1)]


@pytest.fixture
def compare(world, tmp_path, monkeypatch):
    """Runs the command in the world's workspace; returns its exit code and output, as one line."""
    monkeypatch.setenv("ROBOSCAPE_HOME", str(world.root))
    monkeypatch.setenv("ROBOSCAPE_PREFECT_PORT", "1")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["compare", *arguments, "--out", str(tmp_path / "out")])
        return result.exit_code, " ".join(result.output.split())

    return run


def test_two_evaluations_become_tables_and_pictures(compare, evaluations, tmp_path):
    one, other = (str(result.ref) for result in evaluations)
    code, said = compare(f"one={one}", f"other={other}")
    assert code == 0, said
    assert "Free-running, other differs by: PSNR (dB) ↑" in said
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "comparison.md", "comparison.csv", "comparison.json", "horizon.png", "clips.png",
    }  # fmt: skip
    assert json.loads((out / "comparison.json").read_text())["stores"] == {
        "one": one,
        "other": other,
    }
    page = (out / "comparison.md").read_text()
    assert page.startswith("# one · other\n\n4 clips of 4 episodes")
    assert "Teacher-forced, against the decoded true tokens" in page
    assert "none with fewer than 5 episodes" in page
    with Image.open(out / "horizon.png") as plot, Image.open(out / "clips.png") as strips:
        assert plot.width > 900 and strips.height > 4 * 3 * 112


def test_a_run_stands_for_its_evaluation(compare, evaluations, world, tmp_path):
    journal = start_journal(world.root / "runs", {"experiment": "demo"})
    journal.entry("evaluation").uri = evaluations[0].ref.uri
    journal.close("completed")
    code, said = compare(journal.id, f"other={evaluations[1].ref.key}")
    assert code == 0, said
    assert (tmp_path / "out" / "comparison.md").read_text().startswith(f"# demo {journal.id} · oth")
    # So does the beginning of its id, as far as nothing else begins so
    code, said = compare(f"one={journal.id[:-6]}", f"other={evaluations[1].ref.key}")
    assert code == 0, said
    unfinished = start_journal(world.root / "runs", {"experiment": "smoke"})
    unfinished.close("failed")
    code, said = compare(unfinished.id, "evaluation")
    assert code == USAGE and f"run {unfinished.id} (smoke) has no evaluation" in said


def test_what_cannot_be_compared_says_why_and_writes_nothing(compare, evaluations, world, tmp_path):
    one = f"one={evaluations[0].ref}"
    foreign = made_evaluation(world.root, {"x": 20.0}, {"x": "1/1"})
    bad = {
        (one,): "expected two or more",
        (one, "world_model"): "holds no tables/clips.csv",
        (one, one): "labels one, one: expected two or more, each another",
        (one, f"foreign={foreign.ref}"): "foreign on clip/0: their frames may differ",
        (one, "evaluation/77"): "no store 'evaluation/77'",
        (one, "=evaluation"): "expected LABEL=STORE",
    }
    for names, reason in bad.items():
        code, said = compare(*names)
        assert code in (FAILED, USAGE) and reason in said, (names, said)
        assert not (tmp_path / "out").exists(), names
