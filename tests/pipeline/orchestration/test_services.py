"""The services of a workspace: their secrets, and that two commands do not start them twice."""

import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_disk import fill, make_room, small_disk

from pipeline.orchestration import prefect_login, services
from pipeline.orchestration.services import ServiceError
from pipeline.settings import Settings
from storage.errors import DiskFull
from storage.processes import process_start


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path, prefect_port=services.free_port(), prefect_url=None)
    made.services.mkdir()
    return made


@pytest.mark.parametrize(
    ("make", "name"),
    [(services.ensure_token, "ray-token"), (prefect_login.ensure_login, "prefect-login")],
)
def test_a_secret_is_made_with_its_mode_not_given_it_later(
    make: Callable[[Settings], None],
    name: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    umask = os.umask(0)
    try:
        make(settings)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((settings.services / name).stat().st_mode) == 0o600


def test_a_token_is_kept(settings: Settings):
    services.ensure_token(settings)
    token = (settings.services / "ray-token").read_text()
    services.ensure_token(settings)
    assert len(token) == 64 and (settings.services / "ray-token").read_text() == token


def test_a_login_is_random_and_kept(settings: Settings, tmp_path: Path):
    prefect_login.ensure_login(settings)
    login = settings.login()
    prefect_login.ensure_login(settings)
    other = Settings(home=tmp_path / "other")
    other.services.mkdir(parents=True)
    prefect_login.ensure_login(other)
    assert login and settings.login() == login != other.login()
    assert len(login.removeprefix("roboscape:")) == 32


def test_a_login_that_the_user_wrote_is_kept_and_closed_to_others(settings: Settings):
    settings.login_file.write_text("me:mine\n")
    settings.login_file.chmod(0o644)
    prefect_login.ensure_login(settings)
    assert settings.login() == "me:mine"
    assert stat.S_IMODE(settings.login_file.stat().st_mode) == 0o600


def test_an_empty_login_is_refused_before_a_server_starts_without_one(settings: Settings):
    settings.login_file.write_text("\n")
    with pytest.raises(services.ServiceError, match="prefect-login: found no login in it"):
        services.start_prefect(settings, print)


def test_the_server_lets_browsers_use_answers_on_its_own_pages_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    prefect_login.ensure_login(settings)
    name = "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"
    for each in prefect_login.CORS_NAMES:
        monkeypatch.delenv(each, raising=False)
    port = settings.prefect_port
    assert prefect_login.server_environment(settings) == {
        "PREFECT_SERVER_API_AUTH_STRING": settings.login(),
        name: f"http://127.0.0.1:{port},http://localhost:{port}",
    }
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "https://mine.example")
    assert name not in prefect_login.server_environment(settings)


def test_of_two_commands_at_once_one_starts_the_services_and_the_other_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    inside, said, done = threading.Event(), list[str](), threading.Event()
    order: list[str] = []

    def start(settings: Settings, say: object) -> None:
        order.append("start")
        inside.set()
        done.wait(30)
        order.append("end")

    monkeypatch.setattr(services, "start_missing", start)
    first = threading.Thread(target=services.up, args=(settings, said.append))
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=services.up, args=(settings, said.append))
    second.start()
    while not said and second.is_alive():
        second.join(0.01)
    done.set()
    for thread in (first, second):
        thread.join(30)
    assert said == [f"Services: waiting for process {os.getpid()}, which starts them"]
    assert order == ["start", "end"] * 2


def test_a_token_is_whole_or_absent(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        settings = Settings(home=disk)
        settings.services.mkdir()
        fill(disk)
        with pytest.raises(DiskFull):
            services.ensure_token(settings)
        assert list(settings.services.iterdir()) == []
        make_room(disk)
        (settings.services / "ray-token").touch()  # as an earlier version left it
        services.ensure_token(settings)
        assert len((settings.services / "ray-token").read_text()) == 64


def test_a_service_that_cannot_be_recorded_is_ended(tmp_path: Path, monkeypatch):
    started: list[int] = []

    def start_time(pid: int) -> str:
        started.append(pid)
        return process_start(pid)

    monkeypatch.setattr(services, "process_start", start_time)
    with small_disk(tmp_path / "disk") as disk:
        settings = Settings(home=disk)
        settings.services.mkdir()
        fill(disk)
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        with pytest.raises(DiskFull, match=r"while writing .*/services/ray\.json"):
            services.spawn(settings, "ray", command, "nowhere", dict(os.environ))
        assert not process_start(started[0])
        assert services.read_services(settings) == {}
        assert [path.name for path in settings.services.iterdir()] == ["ray.log"]


def test_a_ray_whose_control_process_dies_while_it_starts_is_ended_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The real head waits a minute for it."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    shutil.copy(shutil.which("sleep") or "/bin/sleep", bin_folder / "gcs_server")
    head = f"#!/bin/sh\n{bin_folder}/gcs_server 600 &\nwait\nsleep 600\n"
    (bin_folder / "ray").write_text(head)
    (bin_folder / "ray").chmod(0o755)
    monkeypatch.setattr(services.sys, "executable", str(bin_folder / "python"))
    starting = services.start_ray(settings, lambda text: None)
    service, until = starting.service, time.monotonic() + 20
    killed: list[int] = []

    def prefect_answers() -> bool:
        """A server that never answers, beside it; kills the control process once it is there."""
        if not killed and (control := services.gcs_server_of(service.pid)):
            if starting.lost():
                pytest.fail("it was there")
            killed.append(control)
            os.kill(control, signal.SIGKILL)
        return False

    server = services.Starting(service=service, ready=prefect_answers)
    with pytest.raises(ServiceError, match=r"gcs_server \(process \d+\) has ended"):
        services.wait_for([server, starting], settings, print)
    assert killed and not service.alive and time.monotonic() < until
