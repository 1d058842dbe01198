"""What others on this machine, and pages in the user's browser, get from the server of `up`."""

import base64
import json
import stat
from collections.abc import Iterator

import pytest
from listening import beyond_loopback, family, listening
from prefect_api import COMMAND, ask, python, settings_of, user_environment

from pipeline.orchestration import services
from pipeline.settings import Settings

pytestmark = pytest.mark.slow
SOCKETS = """
from prefect.server.api.server import API_ROUTERS
from starlette.routing import WebSocketRoute
for router in API_ROUTERS:
    for route in router.routes:
        if isinstance(route, WebSocketRoute):
            print(route.path.replace("{work_pool_name}", "pool"))
"""
# Subprotocols, and what is sent first
HANDSHAKES = {
    "no protocol of Prefect's": ([], None),
    "no login": (["prefect"], {"type": "auth"}),
    "an empty login": (["prefect"], {"type": "auth", "token": ""}),
    "a wrong login": (["prefect"], {"type": "auth", "token": "roboscape:wrong"}),
    "something else first": (["prefect"], {"type": "subscribe", "keys": []}),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return user_environment(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def settings(environment: dict[str, str]) -> Iterator[Settings]:
    """A server and a deployment, as `roboscape up` starts them."""
    python(environment, COMMAND, "up")
    yield settings_of(environment)
    services.down(settings_of(environment), lambda _: None)


def test_no_request_is_answered_without_the_login(settings: Settings):
    login = settings.login()
    assert login and ask(settings, "/api/admin/version", login=login)[0] == 200
    _, _, schema = ask(settings, "/openapi.json")
    requests = {
        (f"/api{path.removeprefix('/api')}", method.upper())
        for path, methods in schema["paths"].items()
        for method in methods
    }
    assert ("/api/deployments/{id}/create_flow_run", "POST") in requests
    open_ = {found for found in requests if ask(settings, found[0], method=found[1])[0] != 401}
    assert open_ == {("/api/health", "GET"), ("/api/ready", "GET")}


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !", "Bearer {}", "basic {}", "Basic {} {}", "Basic " + "cm9ib3NjYXBlOg=="],
)
def test_only_the_login_itself_is_taken(settings: Settings, header: str):
    login = settings.login()
    assert login
    text = header.replace("{}", base64.b64encode(login.encode()).decode())
    status, headers, _ = ask(settings, "/api/admin/version", headers={"Authorization": text})
    assert status == 401
    # Else a browser would ask for it, keep it, and send it with what other pages request
    assert "www-authenticate" not in headers


def test_no_websocket_is_served_without_the_login(settings: Settings, environment: dict[str, str]):
    paths = python(environment | {"PREFECT_HOME": str(settings.home / "other")}, SOCKETS).split()
    assert {"/events/in", "/events/out", "/logs/out"} <= set(paths)
    address = settings.api_url.replace("http://", "ws://")
    for path in paths:
        for what, (protocols, message) in HANDSHAKES.items():
            answer = first_answer(address + path, protocols, message)
            assert answer is None, f"{path}, {what}: {answer!r}"
        login = {"type": "auth", "token": settings.login()}
        answer = first_answer(address + path, ["prefect"], login)
        assert answer and json.loads(answer) == {"type": "auth_success"}, path


def first_answer(address: str, protocols: list[str], message: object) -> str | bytes | None:
    """What a websocket says first; None if it is closed, or not even opened."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    try:
        names = [Subprotocol(name) for name in protocols]
        with connect(address, subprotocols=names or None) as socket:
            if message:
                socket.send(json.dumps(message))
            return socket.recv(timeout=20)
    except (ConnectionClosed, InvalidStatus):
        return None


def preflight(settings: Settings, origin: str) -> tuple[int, str | None]:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    status, found, _ = ask(settings, "/api/flow_runs/filter", method="OPTIONS", headers=headers)
    return status, found.get("access-control-allow-origin")


def test_a_browser_lets_no_other_page_use_answers(settings: Settings):
    port = settings.prefect_port
    for origin in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
        assert preflight(settings, origin) == (200, origin)
    strange = ["http://evil.example", f"http://evil.example:{port}", "http://127.0.0.1:1", "null"]
    for origin in strange:
        assert preflight(settings, origin) == (400, None)
        _, headers, _ = ask(
            settings, "/api/admin/version", login=settings.login(), headers={"Origin": origin}
        )
        assert "access-control-allow-origin" not in headers


def test_a_form_or_a_name_that_leads_here_does_not_get_around_the_login(settings: Settings):
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        headers = {"Content-Type": kind, "Origin": "http://evil.example"}
        status, _, _ = ask(
            settings, "/api/flow_runs/filter", method="POST", data={}, headers=headers
        )
        assert status == 401
    for host in ("evil.example", f"evil.example:{settings.prefect_port}", "/api/health?", "health"):
        assert ask(settings, "/api/admin/version", headers={"Host": host})[0] in (400, 401)


def test_it_listens_on_loopback_only_and_its_database_is_closed(settings: Settings):
    for name in ("prefect", "deployment"):
        pids = family(services.read_services(settings)[name].pid)
        assert beyond_loopback(pids) == []
    server = family(services.read_services(settings)["prefect"].pid)
    assert settings.prefect_port in {port for _, _, port in listening(server)}
    assert stat.S_IMODE((settings.services / "prefect").stat().st_mode) == 0o700
    assert (settings.services / "prefect" / "prefect.db").exists()
