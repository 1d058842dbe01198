"""Running an experiment from Python, as `roboscape run` does."""

import os
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from roboscape.workspace import Workspace


def run(
    experiment: str = "demo",
    *,
    source: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    workspace: str | Path | None = None,
    backend: str | None = None,
    force: bool = False,
    max_error_share: float = 0.01,
    quiet: bool = False,
) -> Workspace:
    """Runs an experiment from raw episodes to evaluation, and opens the workspace.

    Does what `roboscape run` does: starts Prefect and Ray where they do not run, makes the sample
    episodes if the experiment wants them, reuses what is complete and resumes what is not. Prefect
    and Ray are imported here and nowhere else.

    experiment: a named configuration; `roboscape experiments` lists them. source: root of the
    AGIBOT-World episodes; the experiment's own by default. overrides: parameters by name, such as
    {"depth.annotator": "vda-tiny", "world_model.training.steps": 500}. workspace: the folder;
    ROBOSCAPE_HOME or ./workspace by default, the same for all runs of one process. backend: `ray` or
    `serial`. force: make every stage again. max_error_share: share of clips that may raise an
    error. quiet: print nothing.
    Raises ValueError for an unknown experiment or parameter, FileNotFoundError without episodes,
    RuntimeError if a stage fails or a service does not start.
    """
    from pipeline.settings import Settings, apply_environment

    if workspace is not None:
        _use(Path(workspace).absolute())
    settings = Settings()
    # Both libraries read the environment when they are imported.
    apply_environment(settings)
    from rich.console import Console

    from pipeline.cli.run import drive

    out = Console(file=StringIO() if quiet else sys.stdout, highlight=False, soft_wrap=True)
    request = dict(
        experiment=experiment, source=str(source or ""), overrides=dict(overrides or {}),
        backend=backend, force=force, max_error_share=max_error_share,
    )  # fmt: skip
    drive(request, out)
    return Workspace(settings.stores, home=settings.home)


def _use(home: Path) -> None:
    """Makes this the process's workspace. Raises ValueError if another one has been run in."""
    before = os.environ.get("ROBOSCAPE_HOME", "workspace")
    if "prefect" in sys.modules and Path(before).absolute() != home:
        raise ValueError(
            f"workspace={home}: this process has run in {Path(before).absolute()}, whose Prefect "
            "server it is bound to; run in another workspace from another process"
        )
    os.environ["ROBOSCAPE_HOME"] = str(home)
