"""The login of the Prefect server in use: by the deployment, by commands, after a crash."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agibot_tree import FakeEpisode, write_tree
from prefect_api import COMMAND, ask, python, settings_of, user_environment

from pipeline.orchestration import services
from pipeline.settings import Settings

pytestmark = pytest.mark.slow
# In a new workspace, with Prefect imported too early: as after the sample's progress bar
FIRST_UP = """
from pipeline.settings import Settings, apply_environment
settings = Settings()
apply_environment(settings)
from prefect.client.orchestration import get_client
from pipeline.orchestration import services
services.up(settings)
with get_client(sync_client=True) as client:
    print("version", client.api_version())
"""
# As `up` did before servers asked for a login
OLD_UP = """
import os, sys
from pipeline.orchestration import services
from pipeline.settings import Settings, apply_environment
settings = Settings()
settings.services.mkdir(parents=True)
apply_environment(settings)
command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
command += ["--port", str(settings.prefect_port)]
service = services.spawn(settings, "prefect", command, settings.ui_url, dict(os.environ))
starting = services.Starting(service=service, ready=lambda: services.prefect_answers(settings))
services.wait_for([starting], settings, print)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return user_environment(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def settings(environment: dict[str, str]) -> Iterator[Settings]:
    """A server and a deployment, as `roboscape up` starts them."""
    assert "version 3" in python(environment, FIRST_UP)
    yield settings_of(environment)
    services.down(settings_of(environment), lambda _: None)


def test_a_run_of_the_deployment_works_and_the_login_stays_where_it_is(
    settings: Settings, tmp_path: Path
):
    write_tree(tmp_path / "episodes", FakeEpisode())
    login = settings.login()
    assert login

    def api(path: str, **options: Any) -> Any:
        until, status, body = time.monotonic() + 60, 503, b""
        while status == 503 and time.monotonic() < until:  # busy; Prefect's client asks again, too
            status, _, body = ask(settings, f"/api{path}", login=login, **options)
        assert status < 300, body
        return body

    until = time.monotonic() + 60  # `up` does not wait for it
    while ask(settings, "/api/deployments/name/roboscape/local", login=login)[0] == 404:
        assert time.monotonic() < until
        time.sleep(0.5)
    deployment = api("/deployments/name/roboscape/local")["id"]
    parameters = {
        "experiment": "sensor-labels", "source": str(tmp_path / "episodes"),
        "stages": ["discover"], "backend": "serial",
    }  # fmt: skip
    run = api(
        f"/deployments/{deployment}/create_flow_run", method="POST", data={"parameters": parameters}
    )
    until = time.monotonic() + 200
    while run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < until, run
        time.sleep(1)
        assert with_login_in_command_line(login) == []
        run = api(f"/flow_runs/{run['id']}")
    logs = api("/logs/filter", method="POST", data={})
    assert run["state_type"] == "COMPLETED", (run["state"], [log["message"] for log in logs])
    assert login not in json.dumps([run, logs])
    holders = [path for path in settings.home.rglob("*") if holds(path, login)]
    assert holders == [settings.login_file]


def with_login_in_command_line(login: str) -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return [line for line in lines if login in line]


def holds(path: Path, login: str) -> bool:
    if not path.is_file():
        return False
    coded = base64.b64encode(login.encode())
    return login.encode() in (data := path.read_bytes()) or coded in data


def test_the_address_comes_with_the_login_only_on_a_terminal(
    settings: Settings, environment: dict[str, str]
):
    text = python(environment, COMMAND, "ui", "--no-open")
    assert settings.ui_url in text and str(settings.login_file) in text
    assert str(settings.login()) not in text  # it may go into a log


def test_a_server_that_does_not_take_the_login_is_named(
    settings: Settings, environment: dict[str, str]
):
    kept = settings.login_file.read_text()
    settings.login_file.write_text("roboscape:0123456789")
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "up"], env=environment, capture_output=True, text=True
        )
    finally:
        settings.login_file.write_text(kept)
    assert done.returncode == 3, done.stderr
    assert f"does not take the login in {settings.login_file}" in " ".join(done.stderr.split())
    assert "0123456789" not in done.stderr


def test_the_deployment_ends_with_the_server_and_up_starts_both(
    settings: Settings, environment: dict[str, str]
):
    before = services.read_services(settings)
    os.kill(before["prefect"].pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while before["deployment"].alive:
        assert time.monotonic() < until
        time.sleep(0.1)
    python(environment, COMMAND, "up")
    after = services.read_services(settings)
    assert after.keys() == {"prefect", "deployment"}
    assert ask(settings, "/api/admin/version", login=settings.login())[0] == 200


def test_a_server_of_an_earlier_version_works_until_it_is_stopped(
    tmp_path: Path,
):
    old = user_environment(tmp_path)
    settings = settings_of(old)
    python(old, OLD_UP)
    try:
        assert "asks for no login" in python(old, COMMAND, "up")
        text = python(old, COMMAND, "ui", "--no-open")
        assert settings.ui_url in text and "asks for no login" in text
        assert ask(settings, "/api/admin/version")[0] == 200
        python(old, COMMAND, "down")
        assert "asks for no login" not in python(old, COMMAND, "up")
        assert ask(settings, "/api/admin/version")[0] == 401
        assert ask(settings, "/api/admin/version", login=settings.login())[0] == 200
    finally:
        services.down(settings, lambda _: None)
