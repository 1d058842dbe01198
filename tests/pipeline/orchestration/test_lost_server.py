"""A Prefect server dies or hangs in mid-run: the run goes on, its pages are published later."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from repository import SUPPORT
from same_server import at_server_of
from store_digests import digests

from pipeline.orchestration import services
from pipeline.orchestration.journal import Journal, find_journal, journals
from pipeline.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROBOSCAPE = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
LOST_S = 15.0  # on a busy machine; a minute a page it was
SAID = "run goes on without it"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A workspace with services of its own."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), prefect_port=services.free_port(), backend="serial"
    )
    yield settings
    roboscape(settings, "down")


def environment(settings: Settings) -> dict[str, str]:
    own = ("PREFECT_", "RAY_", "ROBOSCAPE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(own)} | {
        "ROBOSCAPE_HOME": str(settings.home),
        "ROBOSCAPE_BACKEND": "serial",
        "ROBOSCAPE_PREFECT_PORT": str(settings.prefect_port),
    }


def roboscape(settings: Settings, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*ROBOSCAPE, *arguments], env=environment(settings), capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


def run_and_signal(
    settings: Settings, number: signal.Signals, *arguments: str, at: str = "clip"
) -> tuple[Journal, str, float]:
    """The command, whose server gets the signal once stage `at` has begun: (journal, what it wrote,
    seconds from the end of the run to that of the process).
    """
    before = {journal.id for journal in journals(settings.runs)}
    process = subprocess.Popen(
        [*ROBOSCAPE, *arguments], env=environment(settings), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 300
    while True:
        new = [journal for journal in journals(settings.runs) if journal.id not in before]
        if new and any(entry.name == at for entry in new[0].stages):
            break
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    signal_server(settings, number)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    journal = find_journal(settings.runs, new[0].id)
    return journal, text, time.time() - journal.ended


def signal_server(settings: Settings, number: signal.Signals) -> None:
    os.kill(services.read_services(settings)["prefect"].pid, number)


def seconds_beside_stages(journal: Journal) -> float:
    """What the run took for anything but its stages' work, such as their pages."""
    return journal.ended - journal.started - sum(entry.seconds for entry in journal.stages)


def in_prefect(settings: Settings, journal: Journal) -> dict:
    """What the server knows of the run, asked in a process of its own: Prefect reads its address
    at import.
    """
    code = """
import json, sys
from uuid import UUID
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
run = UUID(sys.argv[1])
which = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
with get_client(sync_client=True) as client:
    tasks = {t.id: t for t in client.read_task_runs(flow_run_filter=which)}
    artifacts = client.read_artifacts(flow_run_filter=which, limit=200)
    print(json.dumps({
        "run": client.read_flow_run(run).state.name,
        "tasks": {t.name: t.state.name for t in tasks.values()},
        "edges": [[tasks[i.id].name, t.name] for t in tasks.values()
                  for many in t.task_inputs.values() for i in many if hasattr(i, "id")],
        "pages": {a.key: [str(a.id), tasks[a.task_run_id].name, a.data]
                  for a in artifacts if a.type == "markdown"},
        "tables": sorted(a.key for a in artifacts if a.type == "table"),
    }))
"""
    address = {
        "PREFECT_API_URL": settings.api_url,
        "PREFECT_API_AUTH_STRING": settings.login(),
        "PREFECT_HOME": str(settings.home / "asking"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, journal.prefect_run], env=environment(settings) | address,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.long
def test_a_killed_server_costs_seconds_and_its_pages_are_published_later(settings: Settings):
    roboscape(settings, "run", "smoke")
    undisturbed = digests(str(settings.home))
    whole = in_prefect(settings, find_journal(settings.runs, None))

    journal, text, exit_s = run_and_signal(settings, signal.SIGKILL, "run", "smoke", "--force")
    assert seconds_beside_stages(journal) < LOST_S and exit_s < LOST_S
    assert journal.state == "completed"
    assert {entry.state for entry in journal.stages} == {"completed"}
    assert digests(str(settings.home)) == undisturbed
    assert text.count(SAID) == 1 and f"`roboscape publish {journal.id}`" in text
    assert "Traceback" not in text and "Error logging" not in text
    missing = [entry.name for entry in journal.unpublished]
    assert missing[-1] == "evaluation" and len(missing) >= 11
    shown = roboscape(settings, "status")
    assert f"Lineage pages missing in Prefect: {len(missing)} " in shown
    assert "Service: no Prefect server answers" in roboscape(settings, "publish", code=3)

    roboscape(settings, "up")
    assert in_prefect(settings, journal)["run"] == "Running", "nobody has told it yet"
    assert "evaluation" in roboscape(settings, "publish", journal.id)
    now = in_prefect(settings, journal)
    assert now["run"] == "Completed" and set(now["tasks"].values()) == {"Completed"}
    assert sorted(now["edges"]) == sorted(whole["edges"])
    assert now["tables"] == whole["tables"]
    assert now["pages"].keys() == whole["pages"].keys()
    journal = find_journal(settings.runs, journal.id)
    _, task, page = now["pages"]["evaluation"]
    assert task == "evaluation" and "data:image/jpeg" in page
    for entry in journal.stages:  # its graph leads to the pages of this run
        assert now["pages"][entry.name.replace("_", "-")][0] == entry.artifact
        if entry.name in ("clip", "world_model"):
            assert f"../../artifacts/artifact/{entry.artifact}" in page
    assert "in Prefect" not in roboscape(settings, "status")
    assert "nothing to publish" in roboscape(settings, "publish")


@pytest.mark.long
def test_cached_stages_do_not_wait_either(settings: Settings):
    """The server is dead before: `run` starts it again. It is killed once more, then."""
    roboscape(settings, "run", "smoke")
    signal_server(settings, signal.SIGKILL)
    journal, text, exit_s = run_and_signal(
        settings, signal.SIGKILL, "run", "smoke", at="rgb_tokenizer"
    )
    assert {entry.state for entry in journal.stages} == {"cached"}
    assert seconds_beside_stages(journal) < LOST_S and exit_s < LOST_S
    assert text.count(SAID) == 1 and text.count("starting") == 1
    roboscape(settings, "up")
    roboscape(settings, "publish")
    assert set(in_prefect(settings, journal)["tasks"].values()) == {"Cached"}


@pytest.mark.long
def test_a_server_that_does_not_know_the_run_has_its_pages_alone(settings: Settings):
    """Such as one with another database; and a store that was deleted since has no page."""
    roboscape(settings, "run", "smoke")
    journal = find_journal(settings.runs, None)
    journal.prefect_run = str(uuid4())
    journal.entry("clip").unpublished = journal.entry("depth").unpublished = "Cached"
    journal.entry("depth").uri += "-deleted"
    journal.save()
    text = roboscape(settings, "publish", journal.id)
    assert "does not know it; its pages stand alone" in text and "depth             no page" in text
    after = find_journal(settings.runs, journal.id)
    assert after.unpublished == []
    assert after.entry("clip").artifact not in ("", journal.entry("clip").artifact)
    assert after.entry("depth").artifact == journal.entry("depth").artifact


@pytest.mark.long
def test_a_server_that_hangs_costs_less_than_a_minute(settings: Settings):
    roboscape(settings, "run", "smoke")
    try:
        journal, text, exit_s = run_and_signal(settings, signal.SIGSTOP, "run", "smoke")
    finally:
        signal_server(settings, signal.SIGCONT)
    assert {entry.state for entry in journal.stages} == {"cached"}
    assert seconds_beside_stages(journal) < 45 and exit_s < 45
    assert text.count(SAID) == 1 and "no answer within 30 s" in text
    roboscape(settings, "publish")
    assert in_prefect(settings, journal)["run"] == "Completed"


@pytest.mark.parametrize(
    ("number", "code", "says", "state"),
    [
        pytest.param(
            signal.SIGTERM,
            143,
            "Interrupted by SIGTERM. Finished work is kept",
            "crashed",
            marks=pytest.mark.long,
        ),
        pytest.param(
            signal.SIGINT,
            130,
            "Interrupted by Ctrl-C. Finished work is kept",
            "crashed",
            marks=pytest.mark.long,
        ),
        (None, 1, "no brightness for number 14", "failed"),
    ],
)
def test_without_a_server_a_run_still_ends_as_it_ends(
    settings: Settings,
    tmp_path: Path,
    number: signal.Signals | None,
    code: int,
    says: str,
    state: str,
):
    """Interrupted or failed, with its own message and exit code, not with the server's."""
    roboscape(settings, "up")
    home = at_server_of(settings, tmp_path / "home")
    faults = tmp_path / "faults"
    faults.mkdir()
    for name in ("wait-14", "raise-14"):
        (faults / name).touch()
    driver = subprocess.Popen(
        [sys.executable, str(SUPPORT / "toy_flow.py"), str(home.home), "serial", str(faults)],
        env=environment(home), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 180
    while not (faults / "hanging-14").exists():
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    signal_server(settings, signal.SIGKILL)
    if number is None:
        (faults / "wait-14").unlink()
    else:
        driver.send_signal(number)
    _, text = driver.communicate(timeout=60)
    assert driver.returncode == code, text
    assert says in text and text.count(SAID) == 1 and "Traceback" not in text
    journal = find_journal(home.runs, None)
    assert (journal.state, journal.entry("depth").state) == (state, state)
    assert "Prefect does not know how it ended" in roboscape(home, "status", code=1)
    roboscape(settings, "up")
    roboscape(home, "publish")
    now = in_prefect(home, journal)
    assert now["run"] == now["tasks"]["depth"] == state.capitalize()
    assert now["pages"].keys() == {"discover", "clip"}
