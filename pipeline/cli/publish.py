"""`roboscape publish`: the pages of runs that went on without a Prefect server."""

from rich.console import Console

from pipeline.orchestration.journal import Journal, find_journal, journals
from pipeline.orchestration.services import ServiceError, prefect_answers
from pipeline.settings import Settings


def publish(run: str | None, settings: Settings, out: Console) -> bool:
    """Publishes the run's missing pages, or those of all runs; returns whether none is missing.

    Raises LookupError if there is no such run, ValueError if it is still going, ServiceError
    without a server.
    """
    chosen = [find_journal(settings.runs, run)] if run else journals(settings.runs)
    if run and chosen[0].true_state == "running":
        raise ValueError(f"run {chosen[0].id} is still going; it is published when it has ended")
    behind = [journal for journal in chosen if is_behind(journal)]
    if not behind:
        what = f"run {chosen[0].id}" if run else "every run"
        out.print(f"nothing to publish: the pages of {what} are in Prefect")
        return True
    if not prefect_answers(settings, 10.0):
        raise no_server(settings)
    from pipeline.lineage.reach import PrefectGone
    from pipeline.orchestration.publish_later import publish_run

    done = []
    for journal in behind:
        out.print(f"run {journal.id} ({journal.request.get('experiment')})", markup=False)
        try:
            done.append(publish_run(journal, lambda text: out.print(f"  {text}", markup=False)))
        except PrefectGone as error:
            raise no_server(settings) from error
    out.print(f"Runs and their pages: {settings.ui_url}/runs", markup=False)
    return all(done)


def is_behind(journal: Journal) -> bool:
    """Whether Prefect lacks pages or the end of a run that is over."""
    missing = bool(journal.unpublished or journal.prefect_lost)
    return missing and journal.true_state != "running"


def behind_text(journal: Journal) -> str:
    """What Prefect lacks of the run and how to publish it; empty if nothing."""
    if not is_behind(journal):
        return ""
    n = len(journal.unpublished)
    what = f"Lineage pages missing in Prefect: {n}" if n else "Prefect does not know how it ended"
    why = f" (the server was lost: {journal.prefect_lost})" if journal.prefect_lost else ""
    return f"{what}{why}. To publish: `roboscape publish {journal.id}`"


def others_behind(known: list[Journal], shown: Journal) -> str:
    """The other runs of which Prefect lacks something; empty if there is none."""
    ids = [journal.id for journal in known if journal.id != shown.id and is_behind(journal)]
    return (
        f"Missing in Prefect, too: {', '.join(ids)}. To publish: `roboscape publish`" if ids else ""
    )


def no_server(settings: Settings) -> ServiceError:
    return ServiceError(
        f"no Prefect server answers at {settings.api_url}; `roboscape up` starts one"
    )
