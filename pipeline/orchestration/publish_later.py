"""Publishes what a run could not: its lineage pages, and in Prefect how it and its stages ended."""

from collections.abc import Callable
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun, TaskRunResult
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Completed, Crashed, Failed

from pipeline.lineage import page
from pipeline.lineage.artifacts import Owner
from pipeline.lineage.graph import ancestry
from pipeline.lineage.reach import GATE, PrefectGone
from pipeline.orchestration.journal import Journal, StageEntry
from pipeline.orchestration.services import ServiceError
from pipeline.orchestration.stage_task import run_stage
from storage.stores import store
from storage.stores.records import StoreRef


def publish_run(journal: Journal, say: Callable[[str], None]) -> bool:
    """Publishes the run's missing pages; returns whether none is missing any more.

    They get the keys and the place in Prefect's run that they would have had. Raises PrefectGone,
    or ServiceError if the server refuses.
    """
    try:
        tasks = GATE.talk(lambda: report_end(journal))
    except PrefectHTTPStatusError as error:
        what = f"HTTP status {error.response.status_code}"
        raise ServiceError(
            f"the Prefect server does not take the end of run {journal.id}: {what}"
        ) from error
    if tasks is None:
        say(f"run {journal.id}: this Prefect server does not know it; its pages stand alone")
    for entry in journal.unpublished:
        publish_page(journal, entry, tasks, say)
        journal.save()
    if not journal.unpublished:
        journal.prefect_lost = ""
    journal.save()
    return not journal.unpublished


def publish_page(
    journal: Journal,
    entry: StageEntry,
    tasks: dict[str, UUID] | None,
    say: Callable[[str], None],
) -> None:
    """Publishes the stage's page and notes it in its entry; says what became of it."""
    ref = StoreRef(entry.uri)
    if not store.is_complete(ref):
        say(f"{entry.name:<17} no page: {ref.key} is not in {ref.root} any more")
        entry.unpublished = ""
        return
    owner = Owner()
    if tasks is not None:
        owner = Owner(flow_run=UUID(journal.prefect_run), task_run=tasks.get(entry.name))
    pages = {other.uri: other.artifact for other in journal.stages if other.artifact}
    try:
        entry.artifact = page.publish(ref, entry.unpublished, pages, owner)
    except PrefectGone:
        raise
    except Exception as error:  # the other pages can be published all the same
        say(f"{entry.name:<17} no page: {error}")
        return
    entry.unpublished = ""
    say(f"{entry.name:<17} {ref.key}")


def report_end(journal: Journal) -> dict[str, UUID] | None:
    """Tells Prefect how the run and its stages ended; returns the stages' task runs.

    Stages that Prefect has not heard of become task runs, joined as their stores are. None if the
    server does not know the run, such as one with another database.
    """
    if not journal.prefect_run:
        return None
    run_id = UUID(journal.prefect_run)
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(run_id).state
        except ObjectNotFound:
            return None
        by_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        known = {task.id: task for task in client.read_task_runs(flow_run_filter=by_run)}
        tasks: dict[str, UUID] = {}
        for entry in journal.stages:
            task = known.get(UUID(entry.task_run)) if entry.task_run else None
            if task is None:
                task = create_task(client, run_id, entry, tasks)
            tasks[entry.name] = task.id
            if task.name != entry.name:  # it got its name in its first second, too late
                client.set_task_run_name(task.id, entry.name)
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, ended_as(entry), force=True)
        if state is None or not state.is_final():
            client.set_flow_run_state(run_id, run_ended_as(journal), force=True)
    return tasks


def create_task(
    client: SyncPrefectClient, run_id: UUID, entry: StageEntry, tasks: dict[str, UUID]
) -> TaskRun:
    """A task run for the stage, behind those of the stores that its own was made from."""
    ref = StoreRef(entry.uri)
    inputs = ancestry(ref)[-1].inputs if store.is_complete(ref) else {}
    return client.create_task_run(
        run_stage,
        run_id,
        dynamic_key=entry.task_run or entry.name,
        id=UUID(entry.task_run) if entry.task_run else None,
        name=entry.name,
        task_inputs={
            role: [TaskRunResult(id=tasks[each.stage])]
            for role, each in inputs.items()
            if each.stage in tasks
        },
    )


def ended_as(entry: StageEntry) -> State[None]:
    """The stage's state as its task would have had it."""
    note = f"{entry.note} (in {entry.seconds:.1f} s)"  # the server counts till now
    if entry.state in ("completed", "cached", "skipped"):
        return Completed(name=entry.unpublished or entry.state.capitalize(), message=note)
    return (Failed if entry.state == "failed" else Crashed)(message=note)


def run_ended_as(journal: Journal) -> State[None]:
    """The run's state, from its journal."""
    late = "ended without the server; told to it by `roboscape publish`"
    if journal.true_state == "completed":
        return Completed(message=late)
    return (Failed if journal.true_state == "failed" else Crashed)(message=late)
