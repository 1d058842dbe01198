"""Secrets of the services that a workspace starts."""

import os
import stat
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
