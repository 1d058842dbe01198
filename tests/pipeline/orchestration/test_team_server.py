"""A Prefect server that the user names: asked with his login, never with ours."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from serving import serving

from pipeline.orchestration import prefect_login
from pipeline.settings import Settings

COMMAND = "from pipeline.cli.app import main; main()"
THEIRS = "team:theirs"


class Handler(BaseHTTPRequestHandler):
    """Asks for the team's login, as a Prefect server does; notes what it was sent."""

    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        login = self.headers.get("Authorization", "")
        self.asked.append((self.path, login))
        wanted = "Basic " + base64.b64encode(THEIRS.encode()).decode()
        status, body = 200, b'"3.8.8"'
        if self.path != "/api/health" and login != wanted:
            status, body = 401, b'{"exception_message": "Unauthorized"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.asked = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield server


def up(home: Path, server: ThreadingHTTPServer, **more: str) -> subprocess.CompletedProcess[str]:
    """`roboscape up` in a workspace that has a login of its own."""
    settings = Settings(home=home)
    settings.services.mkdir(parents=True, exist_ok=True)
    prefect_login.ensure_login(settings)
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    environment = kept | {
        "ROBOSCAPE_HOME": str(home),
        "ROBOSCAPE_BACKEND": "serial",
        "PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "up"],
        env=environment | more, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def assert_ours_was_not_sent(home: Path) -> None:
    assert {path for path, _ in Handler.asked} >= {"/api/health", "/api/admin/version"}
    ours = base64.b64encode(str(Settings(home=home).login()).encode()).decode()
    assert not [found for found in Handler.asked if ours in found[1]]


def test_it_is_used_with_the_login_that_the_user_has_set(tmp_path: Path, server):
    done = up(tmp_path, server, PREFECT_API_AUTH_STRING=THEIRS)
    assert done.returncode == 0, done.stderr
    assert "(PREFECT_API_URL)" in done.stdout
    assert_ours_was_not_sent(tmp_path)


@pytest.mark.parametrize("login", ["", "team:wrong"])
def test_one_that_refuses_is_named(tmp_path: Path, server, login: str):
    done = up(tmp_path, server, **({"PREFECT_API_AUTH_STRING": login} if login else {}))
    assert done.returncode == 3, done.stderr
    message = " ".join(done.stderr.split())
    assert "refuses the login" in message and "PREFECT_API_AUTH_STRING" in message
    assert "wrong" not in message and "Traceback" not in message
    assert_ours_was_not_sent(tmp_path)
