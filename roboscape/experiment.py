"""Running an experiment from Python, as `roboscape run` does."""

import multiprocessing
import os
import sys
import warnings
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
    episodes if the experiment needs them, reuses what is complete and resumes what is not. Prefect
    and Ray are imported here and nowhere else. It starts processes: a script must call it below
    `if __name__ == "__main__":`, or each of them runs the script again.

    experiment: a named configuration; `roboscape experiments` lists them.
    source: root of the AGIBOT-World episodes; the experiment's own by default.
    overrides: parameters by name, such as `{"depth.annotator": "vda-tiny"}` or
    `{"world_model.training.steps": 500}`.
    workspace: the folder; ROBOSCAPE_HOME or ./workspace by default. One process runs in one only.
    backend: `ray` or `serial`, which needs no Ray and writes the same arrays.
    force: make every stage again, complete or not.
    max_error_share: share of a stage's clips that may raise an error.
    quiet: leave out the report; progress still goes to stderr.
    Raises ValueError for an unknown experiment or parameter, FileNotFoundError without episodes,
    WeightsError without the weights that it needs, RuntimeError if a stage fails or a service does
    not start.
    """
    from pipeline.settings import Settings, apply_environment

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a process that a run started is running your script: call roboscape.run below "
            "`if __name__ == '__main__':`"
        )
    _bind(None if workspace is None else Path(workspace).absolute())
    settings = Settings()
    # Both libraries read the environment when they are imported.
    apply_environment(settings)
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    from rich.console import Console

    from pipeline.cli.run import drive

    out = Console(highlight=False, soft_wrap=True)
    if quiet:
        out = Console(file=StringIO(), force_jupyter=False)
    request = dict(
        experiment=experiment, source=str(source or ""), overrides=dict(overrides or {}),
        backend=backend, force=force, max_error_share=max_error_share,
    )  # fmt: skip
    drive(request, settings, out)
    return Workspace(settings.stores, home=settings.home)


def _bind(home: Path | None) -> None:
    """Makes this the process's workspace. Raises ValueError if it is bound to another one already,
    RuntimeError if Prefect was imported before it could be configured.
    """
    from pipeline.settings import OWN_API, Settings

    bound = Settings().home
    if "prefect" in sys.modules:
        if not os.environ.keys() & {OWN_API, "PREFECT_API_URL"}:
            raise RuntimeError("import prefect after the first roboscape.run, which configures it")
        if home not in (None, bound):
            raise ValueError(
                f"workspace={home}: this process has run in {bound}, whose Prefect server it is "
                "bound to; run in another workspace from another process"
            )
    os.environ["ROBOSCAPE_HOME"] = str(home or bound)
