"""Where services are: what the user's environment names wins, and what we put there ourselves is
not taken for that.
"""

from pathlib import Path

import pytest

from pipeline.settings import OWN_API, Settings, apply_environment, quiet_environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*quiet_environment(Settings(home=tmp_path)), "PREFECT_API_URL", OWN_API):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards, whatever the test sets
        monkeypatch.delenv(name)


def test_an_address_of_our_own_making_is_no_external_server(tmp_path: Path):
    apply_environment(Settings(home=tmp_path / "a", prefect_port=4301))
    other = Settings(home=tmp_path / "b", prefect_port=4302)
    assert other.external_prefect is None and other.api_url == "http://127.0.0.1:4302/api"
    apply_environment(other)
    assert Settings(home=tmp_path / "a", prefect_port=4301).api_url == "http://127.0.0.1:4301/api"


def test_a_server_named_by_the_user_is_external_for_every_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.lab.example/api")
    for home in ("a", "b"):
        settings = Settings(home=tmp_path / home, prefect_port=4301)
        apply_environment(settings)
        assert settings.external_prefect == settings.api_url == "https://prefect.lab.example/api"
        assert settings.ui_url == "https://prefect.lab.example/v2"
