"""`roboscape score`: from a folder of videos to a store with lineage, without a service."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scored_videos import frames_of, warped, write_movie, write_store
from small_stores import square_clips, write_clips
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import USAGE
from pipeline.cli.gc import collect
from pipeline.cli.score import lpips_if_there
from pipeline.lineage.graph import ancestry
from pipeline.lineage.page import markdown
from pipeline.orchestration.journal import start_journal
from pipeline.settings import Settings
from storage.errors import WeightsError
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.weights.catalogue import find_published


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with clips; returns what runs the command there: exit code, output as a line."""
    home = tmp_path / "workspace"
    rows = write_store(home)
    monkeypatch.setenv("ROBOSCAPE_HOME", str(home))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    def run(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["score", *map(str, arguments)])
        return result.exit_code, " ".join(result.output.split())

    return home, rows, run


def stores(home: Path) -> list[StoreRef]:
    return [ref for ref in cleanup.list_stores(str(home)) if ref.stage == "scoring"]


def test_warped_copies_become_a_store_with_lineage(workspace, tmp_path):
    home, rows, score = workspace
    for row in (0, 1):
        write_movie(tmp_path / "warped" / f"clip00{row}.mp4", warped(frames_of(row), 2.0))
    code, said = score(tmp_path / "warped", "--clips", "clip", "--name", "opencv")
    assert code == 0, said
    (ref,) = stores(home)
    for part in (
        "From one frame, on 2 clips and against the camera frames, opencv **beats copying that",
        "1 clips have no video: the page names them", "metrics.md", "videos.png",
        f"Store: {ref}", "No Prefect server answers",
    ):  # fmt: skip
        assert part in said, said
    assert store.is_complete(ref)
    assert [node.ref for node in ancestry(ref)] == [rows["discover"], rows["clip"], ref]
    manifest = store.read_manifest(ref)
    assert manifest.parameters["method"] == "opencv" and len(manifest.parameters["digest"]) == 64
    assert manifest.attributes["videos"].endswith("warped, 2 of them")
    page = markdown(ref, "Completed", {}, open_result(ref))
    assert "## Scores of opencv" in page and "![videos.png]" in page
    # The same videos again, elsewhere, are the same store; another name is another one
    (tmp_path / "warped").rename(tmp_path / "moved")
    code, said = score(tmp_path / "moved", "--clips", str(ref), "--name", "opencv")
    assert code == 0 and "is complete already" in said and stores(home) == [ref]
    assert score(tmp_path / "moved", "--clips", rows["clip"].key)[0] == 0
    assert len(stores(home)) == 2


def test_a_run_names_its_own_clips(workspace, tmp_path):
    home, rows, score = workspace
    arrays = {name: array[:, :12] for name, array in square_clips(5)["clip"].items()}
    newer = write_clips(rows["discover"], "clip", arrays)
    journal = start_journal(home / "runs", {"experiment": "demo"})
    entry = journal.entry("clip")
    entry.uri, entry.state = rows["clip"].uri, "completed"
    journal.close("completed")
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    code, said = score(tmp_path / "v", "--clips", journal.id)
    assert code == 0, said
    assert store.read_manifest(stores(home)[0]).inputs["clip"] == str(rows["clip"]) != str(newer)
    code, said = score(tmp_path / "v", "--clips", journal.id[:13], "--name", "again")
    assert code == 0, said
    assert {store.read_manifest(ref).inputs["clip"] for ref in stores(home)} == {str(rows["clip"])}
    code, said = score(tmp_path / "v", "--clips", "20200101-000000")
    assert code == USAGE and "no run 20200101-000000" in said


def test_an_error_leaves_no_store(workspace, tmp_path):
    home, _, score = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0)[:3])
    code, said = score(tmp_path / "v")
    assert code == USAGE and "clip000.mp4: found 3 frames at 2 Hz" in said
    assert "Traceback" not in said and not stores(home)
    write_movie(tmp_path / "v" / "clip001.mp4", frames_of(1))
    code, said = score(tmp_path / "v", "--skip-bad")
    assert code == 0 and "1 videos cannot be used: the page names them" in said
    for arguments, message in (
        (("--clips", "depth"), "no store 'depth'"),
        (("--clips", "discover"), "was not made from clips"),
        (("--rate", "0"), "--rate"),
        (("--value-range", "1", "0"), "value of black, then of white"),
        (("--device", "abacus"), "--device"),
        (("--name", "world model"), "expected a name of the model"),
    ):
        code, said = score(tmp_path / "v", *arguments)
        assert code == USAGE and message in said, said


def test_the_page_says_whether_the_scores_were_made_now(workspace, tmp_path, monkeypatch):
    _, _, score = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    states = []
    monkeypatch.setattr("pipeline.orchestration.command_store.prefect_answers", lambda _: True)
    monkeypatch.setattr(
        "pipeline.lineage.page.publish", lambda ref, state, *_: states.append(state)
    )
    for _ in range(2):
        assert score(tmp_path / "v")[0] == 0
    assert states == ["Completed", "Cached"]


def test_lpips_that_is_damaged_is_an_error_and_one_that_is_missing_is_none(workspace, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "alex.pth").write_bytes(b"damaged")
    assert lpips_if_there(folder) is None, "the other file is missing"
    (folder / find_published("lpips-alexnet").file).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="lpips-alexnet"):
        lpips_if_there(folder)


def test_gc_keeps_what_the_command_made(workspace, tmp_path):
    home, rows, score = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    assert score(tmp_path / "v")[0] == 0
    settings, out = replace(Settings(), home=home), Console(quiet=True)
    collect(settings, out, delete=True, unused=True, older_than_s=-10.0)
    (ref,) = stores(home)
    assert open_result(ref).file("metrics.md").exists()
    assert store.is_complete(rows["clip"]), "what it was made from is kept, too"
    cleanup.delete(ref)
    collect(settings, out, delete=True, unused=True, older_than_s=-10.0)
    assert not store.exists(rows["clip"]), "the test can fail"


def test_gc_collects_what_a_killed_command_left(workspace, tmp_path, monkeypatch):
    home, _, score = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))

    def killed(*arguments):
        raise SystemExit(137)  # as by SIGKILL, nothing is cleaned up

    with monkeypatch.context() as dying:
        dying.setattr("pipeline.orchestration.command_store.run_dataset", killed)
        assert score(tmp_path / "v")[0] == 137
    (ref,) = stores(home)
    assert not store.is_complete(ref)
    settings, out = replace(Settings(), home=home), Console(quiet=True)
    collect(settings, out, delete=True, unused=True, older_than_s=-10.0)
    assert not stores(home)


def test_what_is_damaged_is_made_by_the_command_again(workspace, tmp_path):
    home, _, score = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    assert score(tmp_path / "v")[0] == 0
    (ref,) = stores(home)
    with open_result(ref).file("metrics.md").open("a") as page:
        page.write("and more")
    result = CliRunner().invoke(app, ["repair", str(ref)])
    said = " ".join(result.output.split())
    assert result.exit_code == USAGE and "since `roboscape score` made it" in said, said
    assert CliRunner().invoke(app, ["delete", str(ref)]).exit_code == 0
    assert score(tmp_path / "v")[0] == 0 and stores(home) == [ref]


def test_no_service_is_needed(workspace, tmp_path):
    """Neither Prefect nor Ray is even imported."""
    home, _, _ = workspace
    write_movie(tmp_path / "v" / "clip000.mp4", frames_of(0))
    code = (
        "import sys; from pipeline.cli.app import app\n"
        f"try: app(['score', {str(tmp_path / 'v')!r}])\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        "assert not {'ray', 'prefect'} & set(sys.modules)"
    )
    environment = {
        "ROBOSCAPE_HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(sys.path), "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_its_page_is_published_if_a_server_answers(workspace, tmp_path, monkeypatch):
    from pipeline.lineage import page
    from pipeline.orchestration import command_store

    made: list[tuple[str, str, str]] = []

    def create(kind, data, *, key, description, owner=None):
        made.append((kind, key, data if kind == "markdown" else description))
        return f"id-{len(made)}"

    write_movie(tmp_path / "v" / "clip000.mp4", warped(frames_of(0), 2.0))
    monkeypatch.setattr(command_store, "prefect_answers", lambda settings: True)
    monkeypatch.setattr(page, "create", create)
    _, _, score = workspace
    code, said = score(tmp_path / "v")
    assert code == 0 and "/artifacts/artifact/id-1" in said, said
    assert [(kind, key) for kind, key, _ in made] == [
        ("markdown", "scoring"), ("table", "scoring-metrics"),
    ]  # fmt: skip
    assert "## Scores of v" in made[0][2] and "mermaid" in made[0][2]

    def refuse(*arguments, **named):
        raise ConnectionError("the server went away")

    # A failing server does not fail what is complete
    monkeypatch.setattr(page, "create", refuse)
    code, said = score(tmp_path / "v")
    assert code == 0 and "No lineage page: the server went away" in said
