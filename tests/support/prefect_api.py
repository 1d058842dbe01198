"""A user's shell in a workspace of his own, and requests to the Prefect server in it."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pipeline.orchestration import services
from pipeline.settings import Settings

COMMAND = "from pipeline.cli.app import main; main()"


def user_environment(home: Path) -> dict[str, str]:
    """With a free port for the server, and without Ray."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
    }
    return kept | {
        "ROBOSCAPE_HOME": str(home),
        "ROBOSCAPE_BACKEND": "serial",
        "ROBOSCAPE_PREFECT_PORT": str(services.free_port()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def settings_of(environment: dict[str, str]) -> Settings:
    return Settings(
        home=Path(environment["ROBOSCAPE_HOME"]),
        prefect_port=int(environment["ROBOSCAPE_PREFECT_PORT"]),
        prefect_url=None,
    )


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
