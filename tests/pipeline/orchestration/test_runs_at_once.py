"""Of two runs that would make one store, the second waits, says for whom, and reuses it."""

import threading
from pathlib import Path

import pytest
from machinery import Machinery

from pipeline.orchestration.flow_run import register
from pipeline.orchestration.journal import read_journal, start_journal
from pipeline.orchestration.recipe import output_ref
from pipeline.orchestration.stage_task import RunContext, decide
from storage.stores import leases, store
from storage.stores.leases import hold


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.01)


def test_a_second_run_waits_with_a_message_and_reuses_what_the_first_made(
    machinery: Machinery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stage, inputs = machinery.brightness(), machinery.upstream()
    out = output_ref(stage, inputs, machinery.root)
    context = RunContext(root=machinery.root, journal=start_journal(tmp_path / "runs", {}))
    found: list[tuple[str, str]] = []
    with (
        hold(machinery.root, home="/second", what="run r2", run="r2") as context.lease,
        hold(machinery.root, home="/first", what="run r1", run="r1") as first,
    ):
        second = threading.Thread(
            target=lambda: found.append(decide(stage, inputs, out, context)), daemon=True
        )
        with first.making(out, None):
            second.start()
            while not context.journal.entry("depth").note and second.is_alive():
                second.join(0.01)
            machinery.run(stage, inputs)
            made = store.read_complete(out)["writer"]
        second.join(60)
    assert found == [("Cached", f"{out.key} is complete: another run made it meanwhile")]
    assert store.read_complete(out)["writer"] == made
    note = read_journal(context.journal.path).entry("depth").note
    assert f"{out} is being made by run r1 of the workspace /first (process" in note
    assert note in capsys.readouterr().err


def test_a_run_that_makes_stores_again_waits_for_those_who_use_them(
    machinery: Machinery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = output_ref(machinery.brightness(), machinery.upstream(), machinery.root)
    context = RunContext(
        root=machinery.root, journal=start_journal(tmp_path / "runs", {}), force=True
    )
    with hold(machinery.root, home="/second", what="run r2", run="r2") as context.lease:
        with hold(machinery.root, home="/first", what="run r1", run="r1") as first:
            first.acquire(uses={str(out)})
            waiting = threading.Thread(target=lambda: register(context, [out]), daemon=True)
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()
        waiting.join(60)
        assert not waiting.is_alive() and context.lease.user.removes == {str(out)}
    assert f"{out} is being used by run r1" in capsys.readouterr().err
