"""A result that a command makes by itself, outside of a run: in this process, without services."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.orchestration.dataset_stage import run_dataset
from pipeline.orchestration.recipe import describe, output_ref
from pipeline.orchestration.services import prefect_answers
from pipeline.settings import Settings
from stages.base import DatasetStage, Progress
from storage.stores import cleanup, leases, store
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_result

# Attribute of a store: the command that made it, since no run's journal names it
MADE_BY = "made_by"


def make_result(
    stage: DatasetStage,
    inputs: Mapping[str, StoreRef],
    settings: Settings,
    command: str,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[Result, bool]:
    """The stage's result beside its inputs, and whether it was made now: not if it was complete.

    command: in words, for the manifest and the lease. say: takes a line for the user, such as what
    it waits for. If the stage fails there is no store; if it is killed, the same command makes it.
    """
    root = next(iter(inputs.values())).root
    out = output_ref(stage, inputs, root)
    if store.is_complete(out):
        say(f"{out} is complete already: nothing to do")
        return open_result(out), False
    with leases.hold(root, home=str(settings.home), what=command) as lease:
        lease.acquire(uses={str(ref) for ref in inputs.values()}, wait=say)
        with lease.making(out, say):
            missing = not store.is_complete(out)  # another one may have made it meanwhile
            if missing:
                make(stage, inputs, out, command, progress)
    return open_result(out), missing


def make(
    stage: DatasetStage,
    inputs: Mapping[str, StoreRef],
    out: StoreRef,
    command: str,
    progress: Progress,
) -> None:
    manifest = describe(stage, dict(inputs), out)
    manifest = replace(manifest, attributes={**manifest.attributes, MADE_BY: command})
    store.create(out, manifest)
    try:
        run_dataset(stage, dict(inputs), out, progress)
    except Exception:
        cleanup.delete(out)
        raise


def publish_page(ref: StoreRef, settings: Settings, *, made: bool) -> str:
    """Publishes the store's lineage page, and returns a line that says where it is, or why not.

    made: now, or else it was there already.
    """
    if not prefect_answers(settings):
        return (
            "No Prefect server answers, so it has no lineage page: `roboscape up`, and the same "
            "command again, publish one"
        )
    # Prefect takes 2 s to import, which a command without a server need not wait for
    from pipeline.lineage import page
    from pipeline.lineage.artifacts import Owner

    try:
        published = page.publish(ref, "Completed" if made else "Cached", {}, Owner())
    except Exception as error:  # a failing server must not fail a result that is complete
        return f"No lineage page: {error}"
    return f"Lineage: {settings.ui_url}/artifacts/artifact/{published}"
