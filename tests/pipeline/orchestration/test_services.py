"""Secrets of the services that a workspace starts."""

import os
import stat
import sys
from pathlib import Path

import pytest
from small_disk import fill, make_room, small_disk

from pipeline.orchestration import services
from pipeline.settings import Settings
from storage.errors import DiskFull
from storage.processes import process_start


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
            services.spawn(settings, "ray", command, "nowhere")
        assert not process_start(started[0])
        assert services.read_services(settings) == {}
        assert [path.name for path in settings.services.iterdir()] == ["ray.log"]
