"""What others on this machine, and pages in the user's browser, get from the server of `up`."""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agibot_tree import FakeEpisode, write_tree
from listening import beyond_loopback, family, listening

from pipeline.orchestration import services
from pipeline.settings import Settings

pytestmark = pytest.mark.slow
COMMAND = "from pipeline.cli.app import main; main()"
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
    """A user's, in a workspace of his own."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    return kept | {
        "ROBOSCAPE_HOME": str(tmp_path_factory.mktemp("workspace")),
        "ROBOSCAPE_BACKEND": "serial",
        "ROBOSCAPE_PREFECT_PORT": str(services.free_port()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


@pytest.fixture(scope="module")
def settings(environment: dict[str, str]) -> Iterator[Settings]:
    """A server and a deployment, as `roboscape up` starts them."""
    python(environment, COMMAND, "up")
    settings = Settings(
        home=Path(environment["ROBOSCAPE_HOME"]),
        prefect_port=int(environment["ROBOSCAPE_PREFECT_PORT"]),
        prefect_url=None,
    )
    yield settings
    services.down(settings, lambda _: None)


def python(environment: dict[str, str], code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(
    settings: Settings,
    path: str,
    *,
    login: str | None = None,
    method: str = "GET",
    data: object = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], Any]:
    """Status, headers (in lower case) and decoded body of an answer."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    body = None if data is None else json.dumps(data).encode()
    address = settings.api_url.removesuffix("/api") + path
    request = urllib.request.Request(address, method=method, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, found, text = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, found, text = error.code, error.headers, error.read()
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = text
    return status, {name.lower(): value for name, value in found.items()}, decoded


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


def test_a_run_of_the_deployment_works_and_the_login_stays_where_it_is(
    settings: Settings, tmp_path: Path
):
    write_tree(tmp_path / "episodes", FakeEpisode())
    login = settings.login()
    assert login

    def api(path: str, **options: Any) -> Any:
        status, _, body = ask(settings, f"/api{path}", login=login, **options)
        assert status < 300, body
        return body

    until = time.monotonic() + 60  # `up` does not wait for it
    while ask(settings, "/api/deployments/name/roboscape/local", login=login)[0] == 404:
        assert time.monotonic() < until
        time.sleep(0.5)
    deployment = api("/deployments/name/roboscape/local")["id"]
    parameters = {
        "experiment": "sensor-labels", "source": str(tmp_path / "episodes"),
        "stages": ["discover"], "backend": "serial",
    }  # fmt: skip
    run = api(
        f"/deployments/{deployment}/create_flow_run", method="POST", data={"parameters": parameters}
    )
    until = time.monotonic() + 200
    while run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < until, run
        time.sleep(1)
        assert with_login_in_command_line(login) == []
        run = api(f"/flow_runs/{run['id']}")
    logs = api("/logs/filter", method="POST", data={})
    assert run["state_type"] == "COMPLETED", (run["state"], [log["message"] for log in logs])
    assert login not in json.dumps([run, logs])
    holders = [path for path in settings.home.rglob("*") if holds(path, login)]
    assert holders == [settings.login_file]


def with_login_in_command_line(login: str) -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return [line for line in lines if login in line]


def holds(path: Path, login: str) -> bool:
    if not path.is_file():
        return False
    coded = base64.b64encode(login.encode())
    return login.encode() in (data := path.read_bytes()) or coded in data


def test_the_address_comes_with_the_login_only_on_a_terminal(
    settings: Settings, environment: dict[str, str]
):
    text = python(environment, COMMAND, "ui", "--no-open")
    assert settings.ui_url in text and str(settings.login_file) in text
    assert str(settings.login()) not in text  # it may go into a log


def test_a_server_that_does_not_take_the_login_is_named(
    settings: Settings, environment: dict[str, str]
):
    kept = settings.login_file.read_text()
    settings.login_file.write_text("roboscape:0123456789")
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "up"], env=environment, capture_output=True, text=True
        )
    finally:
        settings.login_file.write_text(kept)
    assert done.returncode == 3, done.stderr
    assert f"does not take the login in {settings.login_file}" in " ".join(done.stderr.split())
    assert "0123456789" not in done.stderr


def test_the_deployment_ends_with_the_server_and_up_starts_both(
    settings: Settings, environment: dict[str, str]
):
    before = services.read_services(settings)
    os.kill(before["prefect"].pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while before["deployment"].alive:
        assert time.monotonic() < until
        time.sleep(0.1)
    python(environment, COMMAND, "up")
    after = services.read_services(settings)
    assert after.keys() == {"prefect", "deployment"}
    assert ask(settings, "/api/admin/version", login=settings.login())[0] == 200
