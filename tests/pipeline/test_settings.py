"""Settings: what the user's environment names wins; what we set there ourselves does not count."""

import os
from pathlib import Path

import pytest

from pipeline.login import LOGIN, OWN_LOGIN, without_login
from pipeline.settings import OWN_API, Settings, apply_environment, quiet_environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = "PREFECT_API_URL", OWN_API, LOGIN, OWN_LOGIN, "NO_PROXY", "no_proxy"
    for name in (*quiet_environment(Settings(home=tmp_path)), *names):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the test sets
        monkeypatch.delenv(name)


def test_the_address_that_we_set_is_no_external_server(tmp_path: Path):
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


def test_the_environment_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("STORES", "WEIGHTS"):
        monkeypatch.setenv(f"ROBOSCAPE_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.lab.example/api")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    settings = Settings(home=tmp_path)
    for name in ("ROBOSCAPE_STORES", "ROBOSCAPE_WEIGHTS", "PREFECT_API_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name)
    assert (settings.stores, settings.weights) == (
        str(tmp_path / "stores"),
        tmp_path / "weights",
    )
    assert settings.api_url == "https://prefect.lab.example/api"
    assert settings.external_ray == "10.0.0.1:6379"
    assert (Settings(home=tmp_path).stores, Settings(home=tmp_path).external_ray) == (
        str(tmp_path),
        None,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ROBOSCAPE_STALL_S", "soon", "ROBOSCAPE_STALL_S=soon: expected a number"),
        ("ROBOSCAPE_PREFECT_PORT", "http", "ROBOSCAPE_PREFECT_PORT=http: expected a number"),
        ("ROBOSCAPE_BACKEND", "dask", "backend 'dask': expected 'ray' or 'serial', from --backend"),
    ],
)
def test_a_wrong_variable_is_named(name, value, message, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Settings()


def test_only_a_ray_of_this_machine_is_kept_on_loopback(tmp_path: Path):
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert quiet_environment(Settings(home=tmp_path, external_ray=None))[name] == "0"
    assert name not in quiet_environment(Settings(home=tmp_path, external_ray="10.0.0.1:6379"))


def with_login(home: Path, login: str) -> Settings:
    settings = Settings(home=home, prefect_port=4301)
    settings.services.mkdir(parents=True)
    settings.login_file.write_text(login + "\n")
    return settings


def test_each_workspace_logs_in_with_its_own(tmp_path: Path):
    for name in ("a", "b"):
        apply_environment(with_login(tmp_path / name, f"roboscape:{name}"))
        assert os.environ[LOGIN] == f"roboscape:{name}"
        assert f"roboscape:{name}" not in os.environ[OWN_LOGIN]
    apply_environment(Settings(home=tmp_path / "c"))  # its server, if any, asks for none
    assert LOGIN not in os.environ and OWN_LOGIN not in os.environ


def test_our_login_is_not_sent_to_a_server_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = with_login(tmp_path, "roboscape:ours")
    apply_environment(settings)
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.lab.example/api")
    apply_environment(Settings(home=tmp_path, prefect_port=4301))  # as a child process does
    assert LOGIN not in os.environ
    monkeypatch.setenv(LOGIN, "me:theirs")
    apply_environment(Settings(home=tmp_path, prefect_port=4301))
    assert os.environ[LOGIN] == "me:theirs" and OWN_LOGIN not in os.environ


def test_a_login_for_another_server_is_not_sent_to_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(LOGIN, "me:theirs")
    apply_environment(with_login(tmp_path, "roboscape:ours"))
    assert os.environ[LOGIN] == "roboscape:ours"


def test_a_child_without_need_of_the_login_does_not_get_it(tmp_path: Path):
    apply_environment(with_login(tmp_path, "roboscape:ours"))
    assert not {LOGIN, OWN_LOGIN} & without_login(dict(os.environ)).keys()
    assert without_login({"PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"NO_PROXY": "127.0.0.1,localhost"}),
        ({"NO_PROXY": "lab"}, {"NO_PROXY": "lab,127.0.0.1,localhost"}),
        ({"no_proxy": "lab,localhost"}, {"no_proxy": "lab,localhost,127.0.0.1"}),
        ({"NO_PROXY": "*"}, {"NO_PROXY": "*"}),
    ],
)
def test_what_stays_on_this_machine_passes_no_proxy(
    given: dict[str, str], made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # a child process inherits it
        apply_environment(Settings(home=tmp_path))
        assert {n: os.environ[n] for n in ("NO_PROXY", "no_proxy") if n in os.environ} == made
