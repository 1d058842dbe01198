"""The deployment obeys its server, and nobody who takes the server's place."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.orchestration.deployment import end_with_server
from pipeline.orchestration.services import Service, ServiceError
from pipeline.settings import Settings
from storage.processes import process_start

SCRIPT = """
import subprocess, sys, time
from multiprocessing import resource_tracker
from pathlib import Path
from pipeline.orchestration.deployment import end_with_server
from pipeline.settings import Settings
resource_tracker.ensure_running()  # as after the first run
run = subprocess.Popen(["sleep", sys.argv[2]])  # stands for a run of the flow
end_with_server(Settings(home=Path(sys.argv[1])))
print("serves", flush=True)
run.wait()
time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path, prefect_url=None)
    made.services.mkdir()
    return made


@pytest.fixture
def start(settings: Settings) -> Iterator:
    """Starts a server's stand-in, and a deployment with a run that takes so many seconds."""
    started: list[subprocess.Popen[str]] = []

    def server() -> subprocess.Popen[str]:
        process = subprocess.Popen(["sleep", "60"], text=True)
        started.append(process)
        record = Service(
            name="prefect", pid=process.pid, start=process_start(process.pid), address=""
        )
        (settings.services / "prefect.json").write_text(json.dumps(record.__dict__))
        return process

    def deployment(run_s: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(settings.home), str(run_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout and process.stdout.readline() == "serves\n"
        return process

    yield server, deployment
    for process in started:
        process.kill()
        process.communicate()


def end(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.wait()


def seconds_to_end(deployment: subprocess.Popen[str]) -> float:
    began = time.monotonic()
    text, _ = deployment.communicate(timeout=30)
    assert deployment.returncode == 1 and "`roboscape up`" in text
    return time.monotonic() - began


def test_it_ends_with_its_server(start):
    server, deployment = start[0](), start[1](0)
    end(server)
    assert seconds_to_end(deployment) < 2


def test_it_waits_for_a_run_that_is_under_way(start):
    server, deployment = start[0](), start[1](4)
    end(server)
    assert 1 < seconds_to_end(deployment) < 20


def test_it_goes_on_with_a_server_that_was_started_meanwhile(start):
    server, deployment = start[0](), start[1](3)
    end(server)
    other = start[0]()
    with pytest.raises(subprocess.TimeoutExpired):  # the run has ended by then
        deployment.wait(timeout=5)
    end(other)
    assert seconds_to_end(deployment) < 2


def test_without_a_server_it_does_not_start(settings: Settings):
    with pytest.raises(ServiceError, match="no Prefect server of this workspace runs"):
        end_with_server(settings)
