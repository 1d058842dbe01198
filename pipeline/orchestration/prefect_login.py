"""The login that this workspace's Prefect server asks for.

The server listens on 127.0.0.1, where every user of the machine and every page in the user's
browser can reach it, and whoever may use its API can have the deployment run what he likes. So it
asks each request for a random string, which only this user can read, and lets browsers use answers
on its own pages only.
"""

import base64
import os
import secrets
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pipeline.settings import Settings
from storage.atomic import temporary

# open: it asks for none. silent: no answer.
LoginState = Literal["accepted", "refused", "open", "silent"]
LOOPBACK = ("127.0.0.1", "localhost")
CORS_NAMES = (
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",  # an older name of the same
)


def write_secret(path: Path, text: str) -> None:
    """Writes the file if there is none; at no moment can others read it, or half of it."""
    with temporary(path) as temp:
        descriptor = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
        with suppress(FileExistsError):
            os.link(temp, path)


def ensure_login(settings: Settings) -> None:
    """Makes the login where there is none; one that the user has written is kept, with mode 600.

    Raises ValueError if the file holds none.
    """
    write_secret(settings.login_file, f"roboscape:{secrets.token_hex(16)}")
    if not settings.login():
        raise ValueError(
            f"{settings.login_file}: found no login in it, expected user:password; delete it, and "
            "`roboscape up` makes another"
        )
    settings.login_file.chmod(0o600)


def server_environment(settings: Settings) -> dict[str, str]:
    """What the server alone needs to know, beside the variables that the user has set."""
    origins = ",".join(f"http://{host}:{settings.prefect_port}" for host in LOOPBACK)
    cors = {} if any(name in os.environ for name in CORS_NAMES) else {CORS_NAMES[0]: origins}
    login = settings.login()
    assert login, f"{settings.login_file}: no login"
    return {"PREFECT_SERVER_API_AUTH_STRING": login, **cors}


def keep_private(settings: Settings) -> None:
    """Closes the folder of the server's database to others: it holds what the API would tell."""
    folder = settings.services / "prefect"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)


def login_state(settings: Settings, timeout_s: float = 10.0) -> LoginState:
    """How this workspace's server takes its login. It is sent only to a server that asks."""
    found = request_status(settings, {}, timeout_s)
    login = settings.login()
    if found == 401 and login:
        token = base64.b64encode(login.encode()).decode()
        found = request_status(settings, {"Authorization": f"Basic {token}"}, timeout_s)
        return {200: "accepted", 401: "refused"}.get(found, "silent")  # type: ignore[return-value]
    return {200: "open", 401: "refused"}.get(found, "silent")  # type: ignore[return-value]


def request_status(settings: Settings, headers: dict[str, str], timeout_s: float) -> int:
    """The HTTP status of a harmless request that needs the login; 0 without an answer."""
    request = urllib.request.Request(f"{settings.local_api}/admin/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def refresh_prefect() -> None:
    """Lets Prefect read the environment again if it was imported before the login was made."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def locked_out(settings: Settings) -> bool:
    """Whether a team's server refuses what the user's environment or profile logs in with."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except PrefectHTTPStatusError as error:
        return error.response.status_code in (401, 403)
    except Exception:  # another kind of answer is for the run to meet
        return False
    return False
