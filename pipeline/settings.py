"""Settings from the environment: the workspace, the Prefect server, the Ray cluster.

Everything is kept in one workspace folder: deleting it undoes everything. Environment variables
name services that run elsewhere; then none is started here.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.login import give_login, keep_from_proxies

PREFECT_PORT = 4211  # not Prefect's own 4200, which a developer's other server may hold
# Set by `apply_environment`: the address that it gave to Prefect, which is no team's server
OWN_API = "ROBOSCAPE_OWN_API"


def number(name: str, default: float) -> float:
    """The environment variable as a number. Raises ValueError if it is no finite one, 0 or more."""
    text = os.environ.get(name)
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={text}: expected a number, 0 or more, such as {default:g}")
    return value


def port(name: str) -> int:
    """The environment variable as a port, 0 if it is not set. Raises ValueError if it is none."""
    value = number(name, 0)
    if value != int(value) or value > 65535:
        raise ValueError(f"{name}={os.environ[name]}: expected a port, an integer up to 65535")
    return int(value)


def switch(name: str) -> bool:
    """The environment variable as a switch, on by default. Raises ValueError if it is none."""
    text = os.environ.get(name) or "on"
    if text not in ("on", "off"):
        raise ValueError(f"{name}={text}: expected on or off")
    return text == "on"


def named_prefect() -> str | None:
    """The server that the user's environment names, not the one that we put there ourselves."""
    url = os.environ.get("PREFECT_API_URL")
    return url if url and url != os.environ.get(OWN_API) else None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read from the environment when it is made: once per process, then handed down.

    ROBOSCAPE_HOME: the workspace (default ./workspace). ROBOSCAPE_STORES: root of the stores, a
    folder or s3:// address (default <workspace>). ROBOSCAPE_WEIGHTS: folder of published weights
    (default <workspace>/weights). ROBOSCAPE_BACKEND: ray or serial. ROBOSCAPE_STALL_S: see
    `stall_s`. ROBOSCAPE_SPACE_CHECK: see `space_check`. HF_ENDPOINT: a mirror of Hugging Face's
    hub. PREFECT_API_URL, RAY_ADDRESS: attach to these and start nothing.
    """

    home: Path = field(
        default_factory=lambda: Path(os.environ.get("ROBOSCAPE_HOME") or "workspace").absolute()
    )
    stores_root: str = field(default_factory=lambda: os.environ.get("ROBOSCAPE_STORES", ""))
    weights_folder: str = field(default_factory=lambda: os.environ.get("ROBOSCAPE_WEIGHTS", ""))
    backend: str = field(default_factory=lambda: os.environ.get("ROBOSCAPE_BACKEND", "ray"))
    # Default: the port on which this workspace's server was started last, else PREFECT_PORT
    prefect_port: int = field(default_factory=lambda: port("ROBOSCAPE_PREFECT_PORT"))
    prefect_url: str | None = field(default_factory=named_prefect)
    external_ray: str | None = field(default_factory=lambda: os.environ.get("RAY_ADDRESS"))
    # Where `roboscape weights fetch` finds the hub's files
    hub: str = field(
        default_factory=lambda: os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    )
    # A lost Ray node can leave the driver waiting for ever: if no shard finishes for this long, the
    # stage fails.
    stall_s: float = field(default_factory=lambda: number("ROBOSCAPE_STALL_S", 3600))
    # Whether a run is refused that would by its estimate fill the disk: ROBOSCAPE_SPACE_CHECK=off
    # starts it, since the estimate is an upper one
    space_check: bool = field(default_factory=lambda: switch("ROBOSCAPE_SPACE_CHECK"))

    def __post_init__(self) -> None:
        if self.backend not in ("ray", "serial"):
            raise ValueError(
                f"backend '{self.backend}': expected 'ray' or 'serial', from --backend or "
                "ROBOSCAPE_BACKEND"
            )
        if not self.prefect_port:
            object.__setattr__(self, "prefect_port", self.recorded_port() or PREFECT_PORT)

    def recorded_port(self) -> int | None:
        """Where this workspace's server was started last, so that another shell finds it."""
        try:
            return urlsplit(
                json.loads((self.services / "prefect.json").read_text())["address"]
            ).port
        except (OSError, ValueError, KeyError):
            return None

    @property
    def stores(self) -> str:
        """Root of all stores; may be remote."""
        root = self.stores_root or str(self.home)
        return root if "://" in root else str(Path(root).absolute())

    @property
    def weights(self) -> Path:
        """Folder of published weights; on a cluster, one that all nodes see under this name."""
        return Path(self.weights_folder or self.home / "weights").absolute()

    @property
    def runs(self) -> Path:
        """Journals of the runs driven from this workspace."""
        return self.home / "runs"

    @property
    def services(self) -> Path:
        """Process ids, logs and secrets of what `roboscape up` started."""
        return self.home / "services"

    @property
    def login_file(self) -> Path:
        """Holds what this workspace's Prefect server asks for, `user:password`; mode 600."""
        return self.services / "prefect-login"

    def login(self) -> str | None:
        """What this workspace's Prefect server asks for.

        None if there is no such file, as before the first `up`, or if it is another user's.
        """
        try:
            return self.login_file.read_text().strip() or None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    def sample(self, experiment: str) -> Path:
        """Folder of the simulated episodes of this name."""
        return self.home / f"sample-{experiment}"

    @property
    def external_prefect(self) -> str | None:
        """A team's server, which the environment names."""
        return self.prefect_url if self.prefect_url != self.local_api else None

    @property
    def local_api(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def api_url(self) -> str:
        return self.external_prefect or self.local_api

    @property
    def ui_url(self) -> str:
        """The newer of the server's two interfaces: only it draws the lineage graph."""
        return self.api_url.removesuffix("/api") + "/v2"


def quiet_environment(settings: Settings) -> dict[str, str]:
    """Variables that keep Prefect and Ray offline and quiet, for this process and its children.

    Both libraries read them at import: call `apply_environment` before importing either. What the
    user has set wins.
    """
    # A Ray that is started here is for this machine. Without this variable (its name is from before
    # it counted on Linux) Ray takes the network's address even where it is given 127.0.0.1, and
    # all of its processes, workers and drivers too, then listen on every interface.
    loopback = {} if settings.external_ray else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return loopback | {
        "PREFECT_HOME": str(settings.services / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Logs go to the server, where the UI shows them; the terminal has our own lines and errors.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_API_REQUEST_TIMEOUT": "30",  # seconds that a server which hangs can cost a run
        # After 2, 4 and 8 s: of what talks to the server before the gate of a run is there
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        # Threads that spin while they wait would take the core from other workers.
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        # Ray runs any code that it is sent, so it asks for a token: both sides name the same file.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.services / "ray-token"),
    }


def apply_environment(settings: Settings) -> None:
    """Sets `quiet_environment`, the Prefect server's address and the login of a server of ours.

    What the user has set stays.
    """
    for name, value in quiet_environment(settings).items():
        if not (name == "RAY_AUTH_TOKEN_PATH" and "RAY_AUTH_TOKEN" in os.environ):
            os.environ.setdefault(name, value)
    keep_from_proxies()
    api_url = settings.api_url
    if not settings.external_prefect:
        os.environ[OWN_API] = api_url
    os.environ["PREFECT_API_URL"] = api_url
    give_login(None if settings.external_prefect else settings.login())
