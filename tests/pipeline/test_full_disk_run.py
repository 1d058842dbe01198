"""The command on a disk that fills up: one sentence, and the same command goes on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disk import fill, make_room, small_disk, use_up_inodes
from store_digests import digests

from pipeline.experiments.registry import SAMPLES
from pipeline.orchestration import disk_estimate, services
from pipeline.orchestration.plan import planned
from pipeline.settings import Settings
from simulation.dataset import make_sample

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
ROBOSCAPE = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
STARTED_S = 300.0  # for services and the first stages


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk with the workspace, the caches and the folder for temporary files."""
    with small_disk(tmp_path_factory.mktemp("full") / "d", kilobytes=300_000, inodes=9000) as disk:
        (disk / "tmp").mkdir()
        yield disk


@pytest.fixture(scope="module")
def home(disk: Path) -> Iterator[dict[str, str]]:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    environment |= {
        "ROBOSCAPE_HOME": str(disk / "ws"),
        "ROBOSCAPE_CACHE": str(disk / "cache"),
        "TMPDIR": str(disk / "tmp"),
        "ROBOSCAPE_BACKEND": "serial",
        "ROBOSCAPE_PREFECT_PORT": str(services.free_port()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    make_sample(disk / "ws" / "sample-smoke", SAMPLES["smoke"])
    yield environment
    subprocess.run([*ROBOSCAPE, "down"], env=environment, check=True)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on another disk."""
    return tmp_path_factory.mktemp("room")


@pytest.fixture(scope="module")
def undisturbed(home: dict[str, str], room: Path) -> dict:
    """Digests of what a run with room makes."""
    run(home | {"ROBOSCAPE_STORES": str(room), "ROBOSCAPE_CACHE": str(room / "cache")})
    return digests(str(room))


def run(environment: dict[str, str], code: int = 0) -> str:
    command = [*ROBOSCAPE, "run", "smoke"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stderr


def run_and_fill(environment: dict[str, str], stage: str, exhaust: Callable[[], None]) -> str:
    """Starts the run, exhausts the disk once the stage is named in its journal; its stderr."""
    runs = Path(environment["ROBOSCAPE_HOME"]) / "runs"
    before = set(runs.glob("*.json"))
    command = [*ROBOSCAPE, "run", "smoke"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + STARTED_S
    while time.monotonic() < until and process.poll() is None:
        new = set(runs.glob("*.json")) - before
        if any(f'"{stage}"' in path.read_text().partition('"stages"')[2] for path in new):
            break
        time.sleep(0.02)
    exhaust()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    return errors


@pytest.mark.parametrize(
    ("stage", "exhaust"),
    [("clip", fill), ("depth", use_up_inodes), ("world_model", fill)],
)
def test_the_same_command_goes_on_from_a_full_disk(home, disk, undisturbed, stage, exhaust):
    errors = run_and_fill(home, stage, lambda: exhaust(disk))
    (said,) = [line for line in errors.splitlines() if line.startswith("Failed:")]
    assert "the disk is full (No space left on device) while writing " in said
    assert f"are free on the file system {disk}." in said and "run the same command again" in said
    assert "Traceback" not in errors and "rejected" not in said
    status = [*ROBOSCAPE, "status", "--json"]
    found = subprocess.run(status, env=home, capture_output=True, text=True)
    assert json.loads(found.stdout)["state"] in ("failed", "crashed")
    make_room(disk)
    run(home)
    made = digests(home["ROBOSCAPE_HOME"])
    assert made == undisturbed
    left = [path for path in (disk / "ws" / "stores").rglob("*") if ".tmp-" in path.name]
    assert left == [] and not list((disk / "ws" / "stores").rglob("*.partial"))
    subprocess.run([*ROBOSCAPE, "delete", stage_key(home, stage), "--and-after"], env=home)


def stage_key(environment: dict[str, str], stage: str) -> str:
    (found,) = (Path(environment["ROBOSCAPE_HOME"]) / "stores" / stage).iterdir()
    return found.name


def test_a_run_takes_what_was_estimated(home, undisturbed, room, monkeypatch):
    settings = Settings(home=Path(home["ROBOSCAPE_HOME"]), stores_root=str(room))
    monkeypatch.setattr(disk_estimate, "measured_bytes", lambda stage, known: None)
    found = disk_estimate.estimate(planned({"experiment": "smoke"}, settings), force=True)
    assert set(found.stages) == set(undisturbed)
    taken = [path.lstat() for path in (room / "stores").rglob("*")]
    n_bytes = sum(stat.st_blocks * 512 for stat in taken)
    assert n_bytes <= found.kept <= 2 * n_bytes
    assert len(taken) <= found.inodes <= 2 * len(taken)


def test_a_run_that_does_not_fit_starts_nothing(home, disk):
    small = home | {"ROBOSCAPE_STORES": str(disk / "elsewhere")}
    fill(disk, leave=20_000_000)
    try:
        errors = run(small, code=1)
        assert "so nothing was started" in errors and "ROBOSCAPE_SPACE_CHECK=off" in errors
        plan = [*ROBOSCAPE, "run", "smoke", "--plan"]
        shown = subprocess.run(plan, env=small, capture_output=True, text=True)
        assert shown.returncode == 1 and "so nothing was started" in shown.stderr
        assert "Writes about" in shown.stdout and "world_model" in shown.stdout
        assert not (disk / "elsewhere").exists()
    finally:
        make_room(disk)
