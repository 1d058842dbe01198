"""The command as a user types it, in a workspace of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration import services

ROBOSCAPE = str(Path(sys.executable).with_name("roboscape"))


@dataclass(frozen=True)
class UserCommand:
    """`roboscape` with the workspace `home` and none of this process's settings."""

    home: Path
    port: int

    @staticmethod
    def at(home: Path) -> "UserCommand":
        return UserCommand(home, services.free_port())

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("PREFECT_", "RAY_", "ROBOSCAPE_"))
        }
        return kept | {
            "ROBOSCAPE_HOME": str(self.home),
            "ROBOSCAPE_PREFECT_PORT": str(self.port),
            "ROBOSCAPE_CACHE": str(self.home / "cache"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ROBOSCAPE, *arguments], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Runs it to its end, which must have this exit code; what it wrote on stdout."""
        run = self.start(*arguments)
        out, err = run.communicate(timeout=600)
        assert run.returncode == code, f"{arguments} ended with {run.returncode}\n{out}\n{err}"
        return out

    def status(self, code: int = 0) -> dict[str, Any]:
        """The newest run's journal, as `status --json` prints it."""
        return json.loads(self("status", "--json", code=code))

    def entry(self, stage: str, code: int = 0) -> dict[str, Any]:
        return next(entry for entry in self.status(code)["stages"] if entry["name"] == stage)


def wait_until(ready: Callable[[], Any], run: subprocess.Popen[str], limit_s: float = 240) -> None:
    """Waits while the command runs; fails with what it wrote if it has ended."""
    until = time.monotonic() + limit_s
    while not ready():
        if run.poll() is not None or time.monotonic() > until:
            run.kill()
            raise AssertionError(f"it did not come: {run.communicate()}")
        time.sleep(0.1)
