"""SIGTERM interrupts as Ctrl-C does, once, and only the process that asked for it."""

import os
import signal
import sys
import time

import pytest
import typer

from pipeline.cli import app as cli_app
from pipeline.cli.console import INTERRUPTED, TERMINATED, failures_explained
from pipeline.orchestration.interrupts import interrupted_by, sigterm_interrupts


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # a handler runs between two Python instructions


def test_sigterm_is_a_keyboard_interrupt_once():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        try:
            terminate()
        finally:
            terminate()  # while it cleans up
            assert interrupted_by() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    with sigterm_interrupts():
        assert interrupted_by() == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            terminate()


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGTERM, TERMINATED, "SIGTERM"), (signal.SIGINT, INTERRUPTED, "Ctrl-C")],
)
def test_the_exit_code_is_that_of_the_signal(
    number: signal.Signals, code: int, name: str, capsys: pytest.CaptureFixture[str]
):
    assert code == 128 + number
    with sigterm_interrupts(), pytest.raises(SystemExit) as ended, failures_explained():
        if number == signal.SIGTERM:
            terminate()
        raise KeyboardInterrupt
    assert ended.value.code == code
    assert f"Interrupted by {name}. Finished work is kept" in capsys.readouterr().err


def test_a_forked_worker_is_ended_by_it_at_once():
    started, report = os.pipe()
    with sigterm_interrupts():
        pid = os.fork()
        if not pid:
            try:
                os.write(report, b"!")
                while True:
                    time.sleep(1)
            finally:
                os._exit(7)
        os.read(started, 1)  # Python forgets signals that came while it forked
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)]
)
def test_a_signal_before_the_command_has_begun_has_its_exit_code(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
):
    """Typer takes any KeyboardInterrupt while it reads the arguments for Ctrl-C."""

    reading = typer.Typer()

    @reading.callback(invoke_without_command=True)
    def give_settings() -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(cli_app, "app", reading)
    monkeypatch.setattr(sys, "argv", ["roboscape"])
    with pytest.raises(SystemExit) as end:
        cli_app.main()
    assert end.value.code == code
