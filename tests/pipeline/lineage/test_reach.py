"""The gate to the Prefect server: the first failure to reach it is the last try."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.context import SettingsContext
from prefect.settings import get_current_settings
from serving import serving
from toys import Total

from pipeline.lineage import artifacts, reach
from pipeline.lineage.artifacts import Owner
from pipeline.lineage.live_page import LivePage
from pipeline.lineage.reach import Gate, PrefectGone
from pipeline.orchestration.progress import StageProgress
from pipeline.orchestration.services import free_port


class Prefect(ThreadingHTTPServer):
    """Answers every request with the next of `statuses`, the last one again and again."""

    daemon_threads = True

    def __init__(self, *statuses: int, wait_s: float = 0.0):
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses, self.wait_s, self.asked = list(statuses), wait_s, 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"


class Answer(BaseHTTPRequestHandler):
    server: Prefect

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        time.sleep(server.wait_s)
        status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "WAITS_S", (0.01, 0.01))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate of this test's own, in the place of the process's."""
    gate = Gate()
    for module in (reach, artifacts):
        monkeypatch.setattr(module, "GATE", gate)
    with gate.run():
        yield gate
    with gate.run():  # Prefect may talk again
        pass


def at(api: str) -> SettingsContext:
    """A context in which the Prefect server has this address."""
    now = SettingsContext.get()
    assert now is not None
    changed = now.settings.api.model_copy(update={"url": api})
    return SettingsContext(
        profile=now.profile, settings=now.settings.model_copy(update={"api": changed})
    )


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}/api"


def test_while_the_server_answers_calls_are_made(gate: Gate):
    with serving(Prefect(200)) as server, at(server.api):
        assert [gate.talk(lambda: 7), gate.talk(lambda: 8)] == [7, 8]
    assert gate.lost == ""


def test_after_the_first_failure_nothing_is_tried_and_it_is_said_once(gate: Gate):
    said: list[str] = []
    with gate.run(said.append), at(nobody()):
        for _ in range(3):
            with pytest.raises(PrefectGone, match="Connection refused"):
                gate.talk(lambda: pytest.fail("called without a server"))
        with serving(Prefect(200)) as server, at(server.api):  # not even if it is there again
            with pytest.raises(PrefectGone):
                gate.talk(lambda: 7)
            assert server.asked == 0
    assert len(said) == 1 and "Connection refused" in said[0]


def test_the_next_run_tries_again_with_prefects_own_retries(gate: Gate):
    retries = get_current_settings().client.max_retries
    assert retries > 0
    with at(nobody()), pytest.raises(PrefectGone):
        gate.talk(lambda: 7)
    assert get_current_settings().client.max_retries == 0, "its own threads wait for nothing"
    with gate.run(), serving(Prefect(200)) as server, at(server.api):
        assert gate.talk(lambda: 7) == 7
    assert get_current_settings().client.max_retries == retries


def test_a_server_that_dies_during_a_call_is_given_up(gate: Gate):
    def call() -> None:
        assert get_current_settings().client.max_retries == 0, "Prefect would wait for a minute"
        raise httpx.ConnectError("connection refused")

    gone = pytest.raises(PrefectGone, match="connection refused")
    with serving(Prefect(200)) as server, at(server.api), gone:
        gate.talk(call)
    assert gate.lost == "connection refused"


def test_other_errors_of_a_call_are_its_own(gate: Gate):
    def refused() -> None:
        raise ValueError("key: only lowercase letters")

    with serving(Prefect(200)) as server, at(server.api):
        with pytest.raises(ValueError, match="lowercase"):
            gate.talk(refused)
        assert gate.talk(lambda: 7) == 7


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_answer_of_the_server_itself_is_one(gate: Gate, status: int):
    """Whether the call is allowed then is the call's to find out."""
    with serving(Prefect(status)) as server, at(server.api):
        assert gate.talk(lambda: 7) == 7
    assert gate.lost == ""


def test_a_server_that_cannot_write_is_given_up(gate: Gate):
    """As one with a full disk: it says that it is healthy, and fails each request."""
    with serving(Prefect(200, 500, 200, 500, 200, 500)) as server, at(server.api):
        with pytest.raises(PrefectGone, match="HTTP status 500"):
            artifacts.create("markdown", "a page", key="page", description="", owner=Owner())
        assert server.asked == 2 * (1 + len(reach.WAITS_S))
    assert gate.lost == "HTTP status 500"


def test_a_server_that_is_started_again_is_waited_for(gate: Gate):
    with serving(Prefect(503, 502, 200)) as server, at(server.api):
        assert gate.talk(lambda: 7) == 7


def test_a_proxy_without_its_server_is_no_answer(gate: Gate):
    with serving(Prefect(502)) as server, at(server.api):
        with pytest.raises(PrefectGone, match="HTTP status 502"):
            gate.talk(lambda: 7)
        assert server.asked == 1 + len(reach.WAITS_S)


def test_a_server_that_hangs_is_asked_once(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reach, "ANSWER_S", 0.2)
    with serving(Prefect(200, wait_s=0.6)) as server, at(server.api):
        before = time.monotonic()
        with pytest.raises(PrefectGone, match="no answer within"):
            gate.talk(lambda: 7)
        assert time.monotonic() - before < 0.6
        assert server.asked == 1


def test_all_that_a_stage_shows_goes_through_the_gate(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from uuid import uuid4

    owner = Owner(flow_run=uuid4(), task_run=uuid4())
    monkeypatch.setattr(artifacts, "here", lambda: owner)
    with at(nobody()), pytest.raises(PrefectGone):
        gate.talk(lambda: 7)
    with serving(Prefect(200)) as server, at(server.api):
        with pytest.raises(PrefectGone):
            artifacts.create("markdown", "# page", key="page", description="a page")
        with pytest.raises(PrefectGone):
            artifacts.update(str(uuid4()), "# page")
        with pytest.raises(PrefectGone):
            LivePage(Total(), tmp_path).publish("# page")
        progress = StageProgress("total")
        progress.send(50.0, "half")
        assert progress.sent == float("inf"), "no more tries"
        assert server.asked == 0
    assert capsys.readouterr().err == "", "the gate has said it"
