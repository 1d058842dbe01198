"""The toy stages as a Prefect flow, and a driver to kill: `toy_flow.py HOME BACKEND FAULTS`."""

import sys
from pathlib import Path
from typing import Any

from pipeline.settings import Settings, apply_environment

if __name__ == "__main__":
    apply_environment(Settings(home=Path(sys.argv[1])))

from prefect import flow
from toys import Brightness, Frames, Index, Total

from pipeline.cli.console import failures_explained
from pipeline.orchestration.flow_run import TaskRunner, journaled
from pipeline.orchestration.interrupts import sigterm_interrupts
from pipeline.orchestration.journal import start_journal
from pipeline.orchestration.ray_session import connect_ray
from pipeline.orchestration.stage_task import RunContext


@flow(name="toys", persist_result=False)
def toy_flow(context: Any, faults: str = "", gain: float = 2.0) -> str:
    run = TaskRunner(context)
    with journaled(context):
        index = run(Index())
        clips = run(Frames(), discover=index)
        depth = run(Brightness(faults=faults, gain=gain), discover=index, clip=clips)
        return run(Total(), depth=depth).uri


def toy_context(settings: Settings, **options: Any) -> RunContext:
    journal = start_journal(settings.runs, {"experiment": "toys"})
    return RunContext(root=settings.stores, journal=journal, **{"max_error_share": 0.0, **options})


if __name__ == "__main__":
    settings = Settings(home=Path(sys.argv[1]))
    wanted = sys.argv[2] == "ray"
    with sigterm_interrupts(), failures_explained(), connect_ray(settings, wanted=wanted):
        toy_flow(toy_context(settings, backend=sys.argv[2]), sys.argv[3])
