"""`roboscape ui` shows the login to a person, and to no file or program."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli import ui
from pipeline.orchestration import services
from pipeline.settings import Settings

LOGIN = "roboscape:0123456789abcdef"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path, prefect_port=4301, prefect_url=None)
    made.services.mkdir()
    made.login_file.write_text(LOGIN)
    return made


def printed(settings: Settings, *, terminal: bool) -> str:
    out = io.StringIO()
    ui.print_address(settings, Console(file=out, force_terminal=terminal, soft_wrap=True))
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # colours


def test_the_login_is_printed_on_a_terminal_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(services, "login_state", lambda settings: "accepted")
    assert LOGIN in printed(settings, terminal=True)
    text = printed(settings, terminal=False)
    assert LOGIN not in text and str(settings.login_file) in text


def test_a_server_that_does_not_take_it_is_no_place_to_type_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(services, "login_state", lambda settings: "refused")
    with pytest.raises(services.ServiceError, match="does not take the login"):
        printed(settings, terminal=True)


def test_a_server_without_login_is_said_to_have_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(services, "login_state", lambda settings: "open")
    text = printed(settings, terminal=True)
    assert "asks for no login" in text and LOGIN not in text


def test_of_a_team_s_server_only_the_address_is_known(tmp_path: Path):
    settings = Settings(home=tmp_path, prefect_url="https://prefect.lab.example/api")
    assert printed(settings, terminal=True).strip() == "https://prefect.lab.example/v2"
