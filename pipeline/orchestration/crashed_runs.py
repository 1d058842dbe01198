"""Marks killed runs as crashed; otherwise Prefect would show them as running for ever."""

import sys
from functools import partial

from pipeline.lineage.reach import GATE, PrefectGone
from pipeline.orchestration.journal import close_dead
from pipeline.settings import Settings


def close_leftovers(settings: Settings) -> None:
    """Marks runs whose driver is gone as crashed, in their journals and on the Prefect server."""
    for journal in close_dead(settings.runs):
        if journal.prefect_run:
            try:
                GATE.talk(partial(mark_crashed, journal.prefect_run))
            except PrefectGone as error:  # the gate has said so
                journal.prefect_lost = str(error)
                journal.save()
            except Exception as error:  # a stale record on the server must not stop the new run
                print(
                    f"run {journal.id}: not marked as crashed in Prefect: {error}", file=sys.stderr
                )


def mark_crashed(flow_run_id: str) -> None:
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter
    from prefect.states import Crashed

    run_id = UUID(flow_run_id)
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
            task_run_filter=TaskRunFilter(),
        )
        message = "the process that drove this run has ended"
        for task_run in tasks:
            if task_run.state and not task_run.state.is_final():
                client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
        state = client.read_flow_run(run_id).state
        if state and not state.is_final():
            client.set_flow_run_state(run_id, Crashed(message=message), force=True)
