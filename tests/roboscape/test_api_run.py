"""`roboscape.run` does what `roboscape run` does, in processes of their own: it binds them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import roboscape as rs
from pipeline.orchestration import services
from pipeline.settings import Settings

SMALL = {"world_model.training.steps": 3, "rgb_tokenizer.training.steps": 2}
SCRIPT = """
import roboscape as rs
if __name__ == "__main__":
    workspace, overrides = {workspace!r}, {overrides!r}
    {body}
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator:
    """Runs a script's body; returns its exit code and what it wrote."""
    home = tmp_path / "workspace"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    environment["ROBOSCAPE_PREFECT_PORT"] = str(services.free_port())

    def run(body: str, text: str = SCRIPT) -> tuple[int, str]:
        path = tmp_path / "script.py"
        path.write_text(text.format(workspace=str(home), overrides=SMALL, body=body))
        done = subprocess.run(
            [sys.executable, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    services.down(Settings(home=home), lambda text: None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("rs.run('nonsense', workspace=workspace)", "ValueError: no experiment 'nonsense'"),
        ("rs.run('paper', workspace=workspace)", "roboscape weights fetch"),
        (
            "rs.run('sensor-labels', source='/nowhere', workspace=workspace)",
            "FileNotFoundError: no episodes at /nowhere",
        ),
        (
            "import prefect; rs.run('demo', workspace=workspace)",
            "RuntimeError: import prefect after the first roboscape.run",
        ),
    ],
)
def test_mistakes_show_before_any_service_starts(script, tmp_path, body, message):
    code, text = script(body)
    assert code == 1 and message in text, text
    assert not list(tmp_path.glob("workspace/services/*.json"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_makes_a_workspace_and_the_same_again_makes_nothing(script, tmp_path):
    code, text = script(
        "for again in (False, True):\n"
        "        ws = rs.run('smoke', workspace=workspace, overrides=overrides,\n"
        "                    backend='serial', quiet=again)\n"
        "    print(ws, rs.open(workspace).runs()['state'].to_pylist())\n"
        "    rs.run('smoke', workspace=workspace + '-other')"
    )
    assert code == 1 and "this process has run in" in text, text
    assert text.count("run 20") == 1 and "13 stores" in text, "the second run was quiet"
    ws = rs.open(tmp_path / "workspace")
    first, second = ws.runs().to_pylist()
    assert first["state"] == second["state"] == "completed" and first["experiment"] == "smoke"
    assert first["changed"] == "world_model.training.steps=3 rgb_tokenizer.training.steps=2"
    assert first["psnr_free"] == second["psnr_free"] and second["seconds"] < first["seconds"]
    clip = ws.clips().select(split="val")[0]
    assert clip.text and clip.states.shape == clip.actions.shape == (16, 15, 16)
    scores = rs.metrics.compare(ws.world_model(device="cpu").rollout(clip), clip)
    assert {"psnr", "ssim", "abs_rel"} <= scores.keys()
    assert "sample-smoke" in ws.lineage("evaluation").source


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told(script, tmp_path):
    code, text = script(
        "rs.run('smoke', workspace=workspace)",
        text="import roboscape as rs\nworkspace = {workspace!r}\n{body}",
    )
    assert code == 1 and "call roboscape.run below `if __name__ == '__main__':`" in text, text
