"""The command answers quickly, teaches, and has exit codes that a script can use."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.console import FAILED, NO_SERVICE, USAGE
from pipeline.cli.options import parse_overrides
from pipeline.orchestration.journal import start_journal
from pipeline.settings import Settings

COMMANDS = (
    "run", "rerun", "status", "publish", "ui", "experiments", "lineage", "inspect", "generate",
    "train-annotator", "train-spec", "checkpoint", "sample", "weights", "weights list",
    "weights fetch", "up", "down", "verify", "repair", "delete", "gc",
)  # fmt: skip
HELP_WIDTH = 78  # of 80 columns
HEAVY = ("torch", "numpy", "ray", "prefect", "zarr", "cv2", "mujoco", "pyarrow", "matplotlib")


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOSCAPE_PREFECT_PORT", "9")  # nothing of ours answers there
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return CliRunner()


def test_help_names_every_command(runner: CliRunner):
    text = runner.invoke(app, ["--help"]).output
    assert all(command in text for command in COMMANDS if " " not in command)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "weights"])
def test_the_help_of_each_command_has_an_example_and_fits_a_terminal(
    runner: CliRunner, command: str
):
    help_ = runner.invoke(app, [*command.split(), "--help"])
    assert help_.exit_code == 0 and f"\n roboscape {command}" in help_.output
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    lines = inspect.cleandoc(found.help or "").splitlines()
    assert [line for line in lines if len(line) > HELP_WIDTH] == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status"], ["lineage", "--help"], ["weights", "list"]]
)
def test_help_and_status_load_none_of_the_heavy_libraries(arguments: list[str], tmp_path: Path):
    code = (
        "import sys; from pipeline.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"ROBOSCAPE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_status_before_any_run_and_of_a_failed_one(runner: CliRunner):
    none = runner.invoke(app, ["status"])
    assert none.exit_code == 0 and "no run yet" in none.output
    journal = start_journal(Settings().runs, {"experiment": "demo"})
    journal.entry("depth").note = "clip 7 is odd"
    journal.entry("depth").state = "failed"
    journal.close("failed")
    failed = runner.invoke(app, ["status"])
    assert failed.exit_code == FAILED and "clip 7 is odd" in failed.output
    assert '"state": "failed"' in runner.invoke(app, ["status", "--json"]).output


def test_status_names_runs_whose_pages_are_missing_and_publish_needs_a_server(runner: CliRunner):
    nothing = runner.invoke(app, ["publish"])
    assert nothing.exit_code == 0 and "nothing to publish" in nothing.output
    first, second = (start_journal(Settings().runs, {"experiment": "demo"}) for _ in range(2))
    first.prefect_lost = "Connection refused"
    first.entry("clip").unpublished = "Cached"
    first.close("completed")
    running = runner.invoke(app, ["publish", second.id])
    assert running.exit_code == USAGE and "is still going" in running.output
    second.close("completed")
    shown = runner.invoke(app, ["status", first.id]).output
    assert (
        "Lineage pages missing in Prefect: 1 (the server was lost: Connection refused). To publish:"
        f" `roboscape publish {first.id}`" in shown
    )
    assert (
        f"Missing in Prefect, too: {first.id}" in runner.invoke(app, ["status", second.id]).output
    )
    assert runner.invoke(app, ["publish", second.id]).exit_code == 0
    for arguments in (["publish"], ["publish", first.id]):
        refused = runner.invoke(app, arguments)
        assert refused.exit_code == NO_SERVICE and "`roboscape up` starts one" in refused.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nonsense", "--plan"], USAGE, "no experiment 'nonsense'"),
        (["run", "demo", "--set", "size"], USAGE, "expected STAGE.FIELD=VALUE"),
        (["rerun", "depth"], USAGE, "no run"),
        (["lineage", "abc"], USAGE, "no store 'abc'"),
        (["inspect", "abc"], USAGE, "no store 'abc'"),
        (["ui"], NO_SERVICE, "roboscape up"),
        (["sample", "--size", "640"], USAGE, "WIDTHxHEIGHT"),
    ],
)
def test_mistakes_are_explained_and_have_their_own_exit_code(
    runner: CliRunner, arguments, code, message
):
    result = runner.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(("options", "motion"), [([], None), (["--camera-motion", "1.5"], 1.5)])
def test_a_sample_says_how_much_its_camera_moves(
    runner: CliRunner, tmp_path: Path, options: list[str], motion: float | None
):
    made = runner.invoke(app, ["sample", str(tmp_path / "s"), "--demo", "--episodes=0", *options])
    assert made.exit_code == 0, made.output
    config = json.loads((tmp_path / "s" / "sample.json").read_text())["config"]
    assert config.get("camera_motion") == motion


def test_values_of_set_are_json_where_they_can_be():
    settings = ["clip_format.size=64", "world_model.model.qk_norm=true", "discover.split_salt=a=b"]
    assert parse_overrides(settings) == {
        "clip_format.size": 64, "world_model.model.qk_norm": True, "discover.split_salt": "a=b",
    }  # fmt: skip
