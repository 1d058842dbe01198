"""The command answers quickly, teaches, and ends with codes that a script can use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import FAILED, NO_SERVICE, USAGE, app, parse_overrides
from pipeline.orchestration.journal import start_journal
from pipeline.settings import Settings

COMMANDS = (
    "up", "down", "sample", "run", "rerun", "status", "lineage", "ui", "inspect", "generate", "gc", "experiments",
    "weights",
)  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("ROBOSCAPE_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOSCAPE_PREFECT_PORT", "9")  # nothing of ours answers there
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return CliRunner()


def test_help_names_every_command_and_each_has_help_of_its_own(runner: CliRunner):
    text = runner.invoke(app, ["--help"]).output
    for command in COMMANDS:
        assert command in text
        own = runner.invoke(app, [command, "--help"])
        assert own.exit_code == 0 and len(own.output) > 100


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status"], ["lineage", "--help"], ["weights", "list"]]
)
def test_help_and_status_load_none_of_the_heavy_libraries(arguments: list[str], tmp_path: Path):
    code = (
        "import sys; from pipeline.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'prefect', 'zarr', 'cv2', 'mujoco', 'pyarrow'} & set(sys.modules)\n"
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
def test_mistakes_are_explained_with_a_code_of_their_own(
    runner: CliRunner, arguments, code, message
):
    result = runner.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())


def test_values_of_set_are_json_where_they_can_be():
    settings = ["clip.size=64", "world_model.model.qk_norm=true", "discover.split_salt=a=b"]
    assert parse_overrides(settings) == {
        "clip.size": 64, "world_model.model.qk_norm": True, "discover.split_salt": "a=b",
    }  # fmt: skip
