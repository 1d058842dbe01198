"""The command as a user types it: the whole path, then again, in part, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_api import ask

from pipeline.orchestration import services
from pipeline.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROBOSCAPE = str(Path(sys.executable).with_name("roboscape"))
STAGES = [
    "discover", "clip", "depth", "keypoints", "label_quality", "label_scores", "rgb_tokenizer",
    "depth_tokenizer", "rgb_tokens", "depth_tokens", "token_quality", "world_model", "evaluation",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user in a workspace with its own services."""
    folder = tmp_path_factory.mktemp("workspace")
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    port = str(services.free_port())
    environment |= {
        "ROBOSCAPE_HOME": str(folder),
        "ROBOSCAPE_BACKEND": "serial",
        "ROBOSCAPE_PREFECT_PORT": port,
    }
    yield environment
    call(environment, "down")


def call(
    environment: dict[str, str], *arguments: str, code: int = 0, stream: str = "stdout"
) -> str:
    done = subprocess.run(
        [ROBOSCAPE, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, (
        f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return getattr(done, stream)


def states(environment: dict[str, str]) -> dict[str, str]:
    journal = json.loads(call(environment, "status", "--json"))
    return {entry["name"]: entry["state"] for entry in journal["stages"]}


def subflows(environment: dict[str, str]) -> list[str]:
    """Names of the runs in Prefect that another flow started."""
    settings = Settings(
        home=Path(environment["ROBOSCAPE_HOME"]),
        prefect_port=int(environment["ROBOSCAPE_PREFECT_PORT"]),
    )
    everything = {"flow_runs": {"parent_task_run_id": {"is_null_": False}}}
    status, _, found = ask(
        settings, "/api/flow_runs/filter", login=settings.login(), method="POST", data=everything
    )
    assert status == 200, found
    return [run["name"] for run in found]


def stores(environment: dict[str, str]) -> Path:
    return Path(environment["ROBOSCAPE_HOME"]) / "stores"


def test_the_whole_path_on_a_handful_of_episodes(home: dict[str, str]):
    text = call(home, "run", "smoke")
    assert states(home) == dict.fromkeys(STAGES, "completed")
    assert "Lineage: http" in text
    (result,) = (stores(home) / "evaluation").glob("*/files")
    assert {p.suffix for p in result.iterdir()} >= {".md", ".png", ".gif", ".mp4", ".csv", ".json"}


def test_the_same_again_makes_nothing(home: dict[str, str]):
    call(home, "run", "smoke")
    assert states(home) == dict.fromkeys(STAGES, "cached")


def test_a_plan_shows_what_one_parameter_changes_and_makes_nothing(home: dict[str, str]):
    lines = call(home, "run", "smoke", "--plan", "--set", "keypoints.grid=8").splitlines()
    verdicts = {
        line.split()[0]: line
        for line in lines
        if line.partition(" ")[0] in STAGES and " by " not in line
    }  # neither where one is wrapped, nor what an annotator costs
    made = {stage for stage, line in verdicts.items() if " make " in line}
    assert made == {"keypoints", "label_quality", "label_scores", "world_model", "evaluation"}
    assert (
        "grid: 32 -> 8" in verdicts["keypoints"]
        and "input keypoints changed" in verdicts["world_model"]
    )
    assert len(list((stores(home) / "keypoints").iterdir())) == 1


def test_lineage_leads_from_the_evaluation_to_the_episodes(home: dict[str, str]):
    text = call(home, "lineage", "evaluation")
    measures = ("label_quality", "label_scores", "token_quality")
    assert all(stage in text for stage in STAGES if stage not in measures)
    assert f"{home['ROBOSCAPE_HOME']}/sample" in text.replace("\n", "")


def test_inspection_of_stores_and_their_checksums(home: dict[str, str], tmp_path: Path):
    text = call(home, "inspect", "depth", "0", "--picture", str(tmp_path / "depth.png"), "--verify")
    assert "inverse_depth" in text and (tmp_path / "depth.png").stat().st_size > 1000
    shard = next(p for p in (stores(home) / "rgb_tokens").rglob("0") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[50] ^= 4
    shard.write_bytes(bytes(data))
    assert "damaged" in call(home, "inspect", "rgb_tokens", "--verify", code=1)
    data[50] ^= 4
    shard.write_bytes(bytes(data))


def test_one_stage_is_rerun_alone(home: dict[str, str]):
    call(home, "rerun", "keypoints", "--force")
    assert states(home) == dict.fromkeys(STAGES, "cached") | {"keypoints": "completed"}


def test_ctrl_c_stops_cleanly_and_the_next_run_resumes(home: dict[str, str]):
    run = subprocess.Popen(
        [ROBOSCAPE, "run", "smoke", "--set", "world_model.training.steps=100000"],
        env=home, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 180
    while not list((stores(home) / "world_model").glob("*/work/states/step-*/about.json")):
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, text = run.communicate(timeout=60)
    assert run.returncode == 130, text
    assert "Interrupted" in text and "Traceback" not in text
    call(home, "status", code=1)
    half = next((stores(home) / "world_model").glob("*/work"))
    assert not (half.parent / "complete.json").exists()
    call(home, "run", "smoke")
    assert states(home) == dict.fromkeys(STAGES, "cached")


def test_an_annotator_is_trained_on_exact_labels(home: dict[str, str]):
    settings = (
        "annotator.training.steps=2",
        "annotator.n_val_clips=2",
        "discover.val_share=0.34",
        "truth.points=64",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    text = call(
        home,
        "train-annotator",
        "vda-tiny",
        "--source",
        f"{home['ROBOSCAPE_HOME']}/sample-smoke",
        *options,
    )
    expected = ["discover", "clip", "truth", "depth_annotator"]
    assert states(home) == dict.fromkeys(expected, "completed")
    assert "held_out.png" in text
    (file,) = (stores(home) / "depth_annotator").glob("*/files/annotator.safetensors")
    assert "truth" in call(home, "lineage", str(file))
    assert "annotator.safetensors" in text
    refusal = call(home, "rerun", "world_model", code=2, stream="stderr")
    assert (
        "no stage 'world_model' in experiment 'vda-tiny'; the stages are: discover, clip, truth"
        in refusal
    )
    assert "no annotator 'vda-huge'" in call(
        home, "train-annotator", "vda-huge", code=2, stream="stderr"
    )


def test_a_study_makes_what_its_variants_do_not_share(home: dict[str, str]):
    command = ("study", "ablations", "--scale", "smoke", "--variant", "full", "--variant", "genie")
    text = call(home, *command)
    assert "full, seed 0: cached" in text, "it is the run that is there"
    assert "genie, seed 0: completed" in text
    assert len(list((stores(home) / "rgb_tokens").iterdir())) == 1
    assert len(list((stores(home) / "evaluation").iterdir())) == 2
    folder = Path(home["ROBOSCAPE_HOME"]) / "studies" / "ablations-smoke"
    report = json.loads((folder / "report.json").read_text())
    assert len(report["claims"]) == 2
    assert [run["state"] for run in report["runs"]] == ["cached", "completed"]
    assert list(report["stores"]) == ["full", "genie"]
    page = (folder / "report.md").read_text()
    assert "## Claims" in page and "**genie**" in page and (folder / "horizon.png").exists()
    assert subflows(home) == ["genie, seed 0"]
    again = call(home, *command)
    assert again.count(": cached") == 2 and "started" not in again


def test_services_are_listed_and_stopped(home: dict[str, str]):
    settings = Settings(home=Path(home["ROBOSCAPE_HOME"]), backend="serial")
    assert "prefect" in services.read_services(settings)
    call(home, "down")
    assert services.read_services(settings) == {}
