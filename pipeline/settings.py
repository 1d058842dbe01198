"""Where things are and what answers there: the workspace, the Prefect server, the Ray cluster.

Everything lies under one workspace folder, so that deleting it undoes everything. Environment
variables name services that already run elsewhere; then nothing is started here.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

PREFECT_PORT = 4211  # not Prefect's own 4200, which a developer's other server may hold
# The address that `apply_environment` gave to Prefect, which is no team's server
OWN_API = "ROBOSCAPE_OWN_API"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read from the environment once per process: `Settings()`.

    ROBOSCAPE_HOME: the workspace (default ./workspace). ROBOSCAPE_STORES: root of the stores, a
    folder or s3:// address (default <workspace>). ROBOSCAPE_WEIGHTS: folder of published weights
    (default <workspace>/weights). ROBOSCAPE_BACKEND: ray or serial. ROBOSCAPE_STALL_S: see
    `stall_s`. HF_ENDPOINT: a mirror of Hugging Face's hub. PREFECT_API_URL, RAY_ADDRESS: attach to
    these and start nothing.
    """

    home: Path = field(
        default_factory=lambda: Path(os.environ.get("ROBOSCAPE_HOME", "workspace")).absolute()
    )
    backend: str = field(default_factory=lambda: os.environ.get("ROBOSCAPE_BACKEND", "ray"))
    prefect_port: int = field(
        default_factory=lambda: int(os.environ.get("ROBOSCAPE_PREFECT_PORT", 0))
    )  # 0: see below
    # A lost Ray node can leave the driver waiting for ever: no shard finished for this long ends
    # the stage instead.
    stall_s: float = field(default_factory=lambda: float(os.environ.get("ROBOSCAPE_STALL_S", 3600)))

    def __post_init__(self) -> None:
        if self.backend not in ("ray", "serial"):
            raise ValueError(
                f"backend '{self.backend}' is unknown: ROBOSCAPE_BACKEND is 'ray' or 'serial'"
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
        root = os.environ.get("ROBOSCAPE_STORES", str(self.home))
        return root if "://" in root else str(Path(root).absolute())

    @property
    def weights(self) -> Path:
        """Where published weights lie; on a cluster, a folder that all nodes see under this name."""
        return Path(os.environ.get("ROBOSCAPE_WEIGHTS") or self.home / "weights").absolute()

    @property
    def hub(self) -> str:
        """Where `roboscape weights fetch` finds the hub's files."""
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    @property
    def runs(self) -> Path:
        """Journals of the runs driven from this workspace."""
        return self.home / "runs"

    @property
    def services(self) -> Path:
        """Process ids, logs and tokens of what `roboscape up` started."""
        return self.home / "services"

    def sample(self, experiment: str) -> Path:
        """The simulated episodes of an experiment; each has its own kind."""
        return self.home / f"sample-{experiment}"

    @property
    def external_prefect(self) -> str | None:
        """The server of a team, when the environment names one that no process of ours put there."""
        url = os.environ.get("PREFECT_API_URL")
        return url if url and url not in (self.local_api, os.environ.get(OWN_API)) else None

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

    @property
    def external_ray(self) -> str | None:
        return os.environ.get("RAY_ADDRESS")


def quiet_environment(settings: Settings) -> dict[str, str]:
    """Variables that keep Prefect and Ray offline and quiet, for this process and its children.

    Both libraries read them at import, so `apply_environment` must run before either is imported.
    What the user has set wins.
    """
    return {
        "PREFECT_HOME": str(settings.services / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Everything goes to the server, where the UI shows it; the terminal has our own lines and
        # errors.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_CLI_PROMPT": "false",
        # Threads that spin while they wait take the core from the other workers.
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        # Ray runs any code that it is sent, so it asks for a token; both sides must name the same
        # file.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.services / "ray-token"),
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])),
    }


def apply_environment(settings: Settings) -> None:
    """Sets `quiet_environment` here, keeping what the user has set, and the address of the Prefect
    server.
    """
    for name, value in quiet_environment(settings).items():
        if not (name == "RAY_AUTH_TOKEN_PATH" and "RAY_AUTH_TOKEN" in os.environ):
            os.environ.setdefault(name, value)
    api_url = settings.api_url
    if not settings.external_prefect:
        os.environ[OWN_API] = api_url
    os.environ["PREFECT_API_URL"] = api_url
