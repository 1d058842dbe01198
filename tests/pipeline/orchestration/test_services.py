"""The services of a workspace: their secrets, and that two commands do not start them twice."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pipeline.orchestration import services
from pipeline.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path)
    made.services.mkdir()
    return made


def test_the_token_is_made_with_its_mode_not_given_it_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    umask = os.umask(0)
    try:
        services.ensure_token(settings)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((settings.services / "ray-token").stat().st_mode) == 0o600


def test_a_token_is_kept(settings: Settings):
    services.ensure_token(settings)
    token = (settings.services / "ray-token").read_text()
    services.ensure_token(settings)
    assert len(token) == 64 and (settings.services / "ray-token").read_text() == token


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
