"""The Prefect flow that a study's runs are subflows of.

Their processes import it, to say whose subflows they are. So it is apart from what it does there.
"""

from collections.abc import Callable

from prefect import flow

_job: Callable[[], None] | None = None


@flow(name="study", flow_run_name="{name} ({scale})", persist_result=False)
def study(name: str, scale: str) -> None:
    """Runs the job of `run_as_study`."""
    assert _job is not None, "called by run_as_study"
    _job()


def run_as_study(name: str, scale: str, job: Callable[[], None]) -> None:
    """Calls the job inside the flow."""
    global _job
    _job = job
    study(name, scale)
