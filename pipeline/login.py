"""What Prefect's client logs in with, in the environment of this process and its children.

A login of ours goes to the server of our workspace and to no other: a fingerprint beside it tells
it from one that the user has set for a server of his team.
"""

import hashlib
import os

LOGIN = "PREFECT_API_AUTH_STRING"  # Prefect's own name
OWN_LOGIN = "ROBOSCAPE_OWN_LOGIN"


def give_login(login: str | None) -> None:
    """Gives Prefect's client the login of this workspace's server; None: it uses another server.

    Then what we have given before, here or in the parent process, is taken back; what the user has
    set stays. Prefect reads it when it is imported.
    """
    given = os.environ.get(LOGIN)
    if given and os.environ.get(OWN_LOGIN) == fingerprint(given):
        del os.environ[LOGIN], os.environ[OWN_LOGIN]
    if login:
        os.environ |= {LOGIN: login, OWN_LOGIN: fingerprint(login)}


def without_login(environment: dict[str, str]) -> dict[str, str]:
    """For a child that has no need of Prefect's API."""
    return {name: value for name, value in environment.items() if name not in (LOGIN, OWN_LOGIN)}


def fingerprint(secret: str) -> str:
    """Tells secrets apart without showing them."""
    return hashlib.sha256(secret.encode()).hexdigest()


def keep_from_proxies() -> None:
    """Adds this machine to the user's NO_PROXY: what goes to a server here passes no other one."""
    names = [name for name in ("NO_PROXY", "no_proxy") if name in os.environ] or ["NO_PROXY"]
    for name in names:
        listed = [host for host in os.environ.get(name, "").split(",") if host]
        more = [host for host in ("127.0.0.1", "localhost") if host not in listed]
        if listed != ["*"]:  # everything; with more names it would be one of them
            os.environ[name] = ",".join(listed + more)
