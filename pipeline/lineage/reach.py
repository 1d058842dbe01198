"""The gate to the Prefect server: after a run's first failure to reach it, nothing tries again.

Prefect's client tries a server that is gone for a minute, at every call. A run needs the server for
nothing but to be looked at, so whatever it says to it goes through `talk`, which finds out first
whether somebody listens. Only the driver talks: workers on Ray report to it.
"""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateAcceptDetails,
)
from prefect.context import FlowRunContext, SettingsContext
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker, set_api_log_sink
from prefect.settings import get_current_settings

T = TypeVar("T")

WAITS_S = (0.5, 1.5)  # before it is asked again: a supervisor may be starting it anew
ANSWER_S = 30.0  # a server that hangs is not asked again; a busy one has needed 10 s


class PrefectGone(RuntimeError):
    """The Prefect server cannot be reached; the message says what was found."""


@dataclass
class Gate:
    """`lost` says why the server was given up, empty as long as it was not."""

    lost: str = ""
    on_lost: Callable[[str], None] | None = None
    unmute: Callable[[], None] | None = None

    @contextmanager
    def run(self, on_lost: Callable[[str], None] | None = None) -> Iterator[None]:
        """A run: the server may be tried again. on_lost: called once, when it is given up.

        What was given up stays so after the block, for the rest of the flow.
        """
        if self.unmute is not None:
            self.unmute()
        self.lost, self.unmute, self.on_lost = "", None, on_lost
        # Prefect's thread for logs would report on the terminal what the gate reports
        raises, logging.raiseExceptions = logging.raiseExceptions, False
        try:
            yield
        finally:
            logging.raiseExceptions = raises and not self.lost

    def talk(self, call: Callable[[], T]) -> T:
        """What the call to the server returns. Its other errors are the caller's to handle.

        Raises PrefectGone if the server does not answer, at once if it did not before.
        """
        if self.lost:
            raise PrefectGone(self.lost)
        found = ""
        for wait_s in (0.0, *WAITS_S):
            time.sleep(wait_s)
            try:
                ask_health()
                with one_try():
                    return call()
            except Exception as error:
                found = why_no_answer(error)
                if not found:
                    raise
                if is_timeout(error):
                    break
        self.give_up(found)
        raise PrefectGone(found)

    def give_up(self, found: str) -> None:
        self.lost, self.unmute = found, mute_prefect()
        if self.on_lost is not None:
            self.on_lost(found)


GATE = Gate()


def ask_health() -> None:
    """Raises URLError, HTTPError or OSError if the server does not answer."""
    url = f"{get_current_settings().api.url}/health"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:  # it may ask for a login, which the calls have
        if is_no_answer(error.code):
            raise


def why_no_answer(error: Exception) -> str:
    """What is in the way of an answer, empty if the server did answer."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}" if is_no_answer(error.code) else ""
    if isinstance(error, PrefectHTTPStatusError):
        status = error.response.status_code
        return f"HTTP status {status}" if is_no_answer(status) else ""
    if is_timeout(error):
        return f"no answer within {ANSWER_S:.0f} s"
    if isinstance(error, urllib.error.URLError):
        return getattr(error.reason, "strerror", None) or str(error.reason)
    if isinstance(error, ConnectionError | httpx.TransportError):
        return str(error) or type(error).__name__
    return ""


def is_no_answer(status: int) -> bool:
    """Of a server that is overloaded or cannot work (its disk is full, say), or of a proxy in front
    of one that is gone.
    """
    return status == 429 or status >= 500


def is_timeout(error: Exception) -> bool:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, TimeoutError | httpx.TimeoutException)


def one_try() -> SettingsContext:
    """A context in which Prefect's client tries a request once. (`temporary_settings` does it, too,
    but reads the environment and files again, which takes as long as the request.)
    """
    now = SettingsContext.get()
    assert now is not None, "Prefect makes one when it is imported"
    client = now.settings.client.model_copy(update={"max_retries": 0})
    settings = now.settings.model_copy(update={"client": client})
    return SettingsContext(profile=now.profile, settings=settings)


def mute_prefect() -> Callable[[], None]:
    """Ends the tries of Prefect's own threads, for logs and events; returns what allows them."""
    client = get_current_settings().client
    retries, client.max_retries = client.max_retries, 0
    EventsWorker.set_client_override(NullEventsClient)
    set_api_log_sink(lambda log: None)
    logging.raiseExceptions = False  # the logs that wait are lost
    services = logging.getLogger("prefect._internal.concurrency")  # it would report the cancelled
    services.disabled = True
    cancel_services()

    def unmute() -> None:
        services.disabled = False
        client.max_retries, logging.raiseExceptions = retries, True
        EventsWorker.set_client_override(None)
        set_api_log_sink(None)

    return unmute


def cancel_services() -> None:
    """Cancels those threads' work: at the end of the process it would be waited for, with two
    minutes of new connections to a server that hangs. Prefect has no public name for this.
    """
    for service in list(EventsWorker._instances.values()):  # of all kinds of service
        task, loop = service._task, service._loop
        if isinstance(service, EventsWorker | APILogWorker) and task is not None and loop:
            loop.call_soon_threadsafe(task.cancel)


def run_may_end_alone() -> None:
    """In a flow: its end, too, goes through the gate, and is accepted here if the server is gone.

    Else Prefect's engine would raise in place of the run's own outcome.
    """
    context = FlowRunContext.get()
    assert context is not None, "outside of a flow there is no end to report"
    client: Any = context.client
    report = client.set_flow_run_state

    def set_flow_run_state(
        flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        try:
            return cast(
                OrchestrationResult[Any],
                GATE.talk(lambda: report(flow_run_id, state, force=force)),
            )
        except PrefectGone:
            return OrchestrationResult(
                state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
            )

    client.set_flow_run_state = set_flow_run_state
