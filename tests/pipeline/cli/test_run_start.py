"""A Prefect server that dies between its start and the run's."""

from pathlib import Path

import pytest

from pipeline.cli.run import run_with_services
from pipeline.orchestration import flow_run, services
from pipeline.settings import Settings


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is started, in order; the first run fails."""
    happened: list[str] = []

    def run_flow(request: dict) -> None:
        happened.append("run")
        if happened.count("run") == 1:
            raise RuntimeError("Failed to reach API at http://127.0.0.1:1/api")

    monkeypatch.setattr(services, "up", lambda settings, say: happened.append("up"))
    monkeypatch.setattr(flow_run, "run_flow", run_flow)
    return happened


def test_it_is_started_again_and_the_run_with_it(happened: list[str], tmp_path: Path):
    settings, said = Settings(home=tmp_path, prefect_port=services.free_port()), list[str]()
    run_with_services({}, settings, list, said.append)
    assert happened == ["up", "run"] * 2
    assert said == ["The Prefect server has ended before the run has begun"]


def test_a_failure_that_has_other_reasons_stays_one(
    happened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(services, "prefect_answers", lambda settings, timeout_s: True)
    with pytest.raises(RuntimeError, match="Failed to reach"):
        run_with_services({}, Settings(home=tmp_path), list, lambda text: None)
    assert happened == ["up", "run"]


def test_a_run_that_has_begun_is_not_begun_again(happened: list[str], tmp_path: Path):
    settings = Settings(home=tmp_path, prefect_port=services.free_port())
    with pytest.raises(RuntimeError, match="Failed to reach"):
        run_with_services({}, settings, lambda: ["its journal"], lambda text: None)  # pyright: ignore
    assert happened == ["up", "run"]
