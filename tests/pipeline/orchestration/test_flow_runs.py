"""The toy stages through real Prefect: states, edges, artifacts, re-runs, a killed driver."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from machinery import Machinery, assert_equal_stores
from repository import SUPPORT
from same_server import at_server_of
from toys import Brightness, Frames, Index, Total

from pipeline.orchestration import services
from pipeline.orchestration.errors import StageFailed
from pipeline.orchestration.journal import Journal, find_journal
from pipeline.orchestration.recipe import output_ref
from pipeline.settings import Settings, apply_environment
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.rows import Rows

pytestmark = pytest.mark.slow
STAGES = ["discover", "clip", "depth", "evaluation"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A Prefect server of our own for these tests."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), prefect_port=services.free_port(), backend="serial"
    )
    settings.services.mkdir()
    services.ensure_token(settings)
    apply_environment(settings)
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        temporary_settings,
    )

    services.wait_for([services.start_prefect(settings, print)], settings, print)
    with temporary_settings(
        {
            PREFECT_API_URL: settings.api_url,
            PREFECT_API_AUTH_STRING: settings.login(),
            PREFECT_SERVER_ANALYTICS_ENABLED: False,
        }
    ):
        yield settings
        from prefect.logging.handlers import APILogWorker

        # Else pytest waits at its end, over a minute, for a server that has ended
        APILogWorker.drain_all(timeout=30)
    services.down(settings, print)


@pytest.fixture
def home(settings: Settings, tmp_path: Path) -> Settings:
    """The same server, stores of this test's own."""
    return at_server_of(settings, tmp_path / "home")


def run(settings: Settings, faults: Path | None = None, gain: float = 2.0, **options) -> Journal:
    from toy_flow import toy_context, toy_flow

    toy_flow(toy_context(settings, **options), str(faults or ""), gain)
    return find_journal(settings.runs, None)


def states(journal: Journal) -> dict[str, str]:
    return {entry.name: entry.state for entry in journal.stages}


def drawn(journal: Journal) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """State names of the run's tasks, and the edges that the UI draws between them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(journal.prefect_run)]))
        )
    names = {task.id: task.name for task in tasks}
    edges = {
        (names[source.id], task.name)
        for task in tasks
        for sources in task.task_inputs.values()
        for source in sources
        if hasattr(source, "id")
    }
    return {task.name: task.state.name for task in tasks}, edges


def declared_edges() -> set[tuple[str, str]]:
    return {
        (role, stage.name)
        for stage in (Index(), Frames(), Brightness(), Total())
        for role in stage.inputs
    }


def test_a_run_then_the_same_again_is_cached(home: Settings):
    first = run(home)
    assert states(first) == dict.fromkeys(STAGES, "completed")
    names, edges = drawn(first)
    assert names == dict.fromkeys(STAGES, "Completed")
    assert edges == declared_edges()
    second = run(home)
    assert states(second) == dict.fromkeys(STAGES, "cached")
    names, edges = drawn(second)
    assert names == dict.fromkeys(STAGES, "Cached")
    assert edges == declared_edges()
    assert [entry.uri for entry in first.stages] == [entry.uri for entry in second.stages]


def test_a_broken_limit_fails_a_stage_after_its_page_and_keeps_its_store(
    home: Settings, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: Frames, own: Rows) -> None:
        raise ValueError(f"3 of {int(own.ok.sum())} clips are flagged")

    with monkeypatch.context() as patch:
        patch.setattr(Frames, "check_made", refuse)
        for _ in range(2):  # also where the store is complete
            with pytest.raises(StageFailed, match="stage 'clip': 3 of 19 clips are flagged"):
                run(home)
            (entry,) = (e for e in find_journal(home.runs, None).stages if e.name == "clip")
            assert entry.state == "failed" and "3 of 19" in entry.note and entry.artifact
    assert states(run(home)) == {
        "discover": "cached", "clip": "cached", "depth": "completed", "evaluation": "completed",
    }  # fmt: skip


def test_a_page_that_cannot_be_made_fails_nothing_and_is_published_later(
    home: Settings, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.lineage import page
    from pipeline.orchestration.publish_later import publish_run

    def fail(*arguments: object) -> str:
        raise ValueError("a picture is odd")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(page, "publish", fail)
        journal = run(home)
        assert states(journal) == dict.fromkeys(STAGES, "completed")
        assert [entry.unpublished for entry in journal.stages] == ["Completed"] * 4
        assert not journal.prefect_lost, "the server was there"
        assert not publish_run(journal, said.append)
        assert said == [f"{stage:<17} no page: a picture is odd" for stage in STAGES]
    assert publish_run(journal, said.append)
    after = find_journal(home.runs, journal.id)
    assert all(entry.artifact and not entry.unpublished for entry in after.stages)


def test_one_parameter_remakes_its_stage_and_those_after_it_only(home: Settings):
    run(home)
    changed = run(home, gain=3.0)
    assert states(changed) == {
        "discover": "cached",
        "clip": "cached",
        "depth": "completed",
        "evaluation": "completed",
    }


def test_the_page_holds_the_whole_lineage_and_the_rejects_are_a_table(home: Settings):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    journal = run(home)
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(journal.prefect_run)])
            )
        )
    pages = {a.key: str(a.data) for a in artifacts if a.type == "markdown"}
    assert set(pages) == set(STAGES)
    page = pages["evaluation"]
    for entry in journal.stages:
        key = entry.uri.rsplit("/", 1)[-1]
        assert key[:8] in page
        if entry.name != "evaluation":
            assert f"../../artifacts/artifact/{entry.artifact}" in page
    assert "```mermaid" in page and "all good" in page and "| total |" in page
    tables = {a.key for a in artifacts if a.type == "table"}
    assert {"clip-rejects", "depth-rejects", "evaluation-values"} <= tables
    assert "unlucky" in pages["clip"] and "modulo 7" in str(
        [a.data for a in artifacts if a.key == "clip-rejects"]
    )


def test_a_stage_that_fails_on_one_clip_is_rerun_alone(home: Settings, tmp_path: Path):
    from pipeline.orchestration.errors import StageFailed

    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "raise-8").touch()
    with pytest.raises(StageFailed, match="clip0008"):
        run(home, faults)
    failed = find_journal(home.runs, None)
    assert failed.state == "failed"
    assert states(failed) == {"discover": "completed", "clip": "completed", "depth": "failed"}
    depth = StoreRef(failed.entry("depth").uri)
    assert store.missing_shards(depth) == [2]
    (faults / "raise-8").unlink()
    again = run(home, faults, stages=("depth",))
    assert states(again) == {
        "discover": "cached",
        "clip": "cached",
        "depth": "completed",
        "evaluation": "skipped",
    }
    assert drawn(again)[0] == {
        "discover": "Reused",
        "clip": "Reused",
        "depth": "Completed",
        "evaluation": "Skipped",
    }
    assert "1 shards made now" in again.entry("depth").note
    assert_equal_stores(arrays(depth), undisturbed(tmp_path))


@pytest.mark.parametrize("backend", ["serial", "ray"])
def test_a_killed_driver_loses_nothing_that_was_finished(
    home: Settings, tmp_path: Path, backend: str
):
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "hang-14").touch()
    driver = start_driver(home, backend, faults)
    wait_for(faults / "hanging-14", driver)
    # A worker hangs at its second shard, perhaps before the driver has heard of its first
    wait_for(Path(find_journal(home.runs, None).entry("depth").uri) / "commits" / "*", driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    (faults / "hang-14").unlink()
    killed = find_journal(home.runs, None)
    depth = StoreRef(killed.entry("depth").uri)
    finished = set(range(8)) - set(store.missing_shards(depth))
    assert finished and 14 // 3 not in finished
    from pipeline.orchestration.crashed_runs import close_leftovers

    close_leftovers(home)
    assert states(find_journal(home.runs, killed.id))["depth"] == "crashed"
    assert drawn(killed)[0]["depth"] == "Crashed"
    again = run(home, faults)
    assert states(again) == {
        "discover": "cached",
        "clip": "cached",
        "depth": "completed",
        "evaluation": "completed",
    }
    assert f"{8 - len(finished)} shards made now" in again.entry("depth").note
    assert_equal_stores(arrays(depth), undisturbed(tmp_path))


@pytest.mark.parametrize("backend", ["serial", "ray"])
def test_sigterm_ends_a_run_as_ctrl_c_does(home: Settings, tmp_path: Path, backend: str):
    """Also in Ray's C++ calls, which abort the process for any other exception."""
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "hang-14").touch()
    driver = start_driver(home, backend, faults)
    wait_for(faults / "hanging-14", driver)
    driver.send_signal(signal.SIGTERM)
    driver.send_signal(signal.SIGTERM)  # as an impatient supervisor does: changes nothing
    _, text = driver.communicate(timeout=60)
    assert driver.returncode == 143, text
    assert "Interrupted by SIGTERM. Finished work is kept" in text
    assert "Traceback" not in text and "*** SIG" not in text
    ended = find_journal(home.runs, None)
    assert (ended.state, ended.note) == ("crashed", "interrupted by SIGTERM")
    depth = ended.entry("depth")
    assert (depth.state, depth.note) == ("crashed", "interrupted by SIGTERM")
    assert drawn(ended)[0]["depth"] == "Crashed"
    assert list((home.home / "leases").glob("*.json")) == []
    (faults / "hang-14").unlink()
    again = run(home, faults)
    assert states(again)["depth"] == "completed"
    assert_equal_stores(arrays(StoreRef(depth.uri)), undisturbed(tmp_path))


def start_driver(home: Settings, backend: str, faults: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "ROBOSCAPE_HOME": str(home.home),
        "ROBOSCAPE_PREFECT_PORT": str(home.prefect_port),
    }
    command = [sys.executable, str(SUPPORT / "toy_flow.py"), str(home.home), backend, str(faults)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, driver: subprocess.Popen[str], limit_s: float = 180.0) -> None:
    until = time.monotonic() + limit_s
    while not list(path.parent.glob(path.name)):  # the name may be a pattern
        assert driver.poll() is None, f"the driver ended early with {driver.returncode}"
        assert time.monotonic() < until, f"{path} did not appear in {limit_s} s"
        time.sleep(0.1)


def arrays(ref: StoreRef):
    return Machinery.arrays(ref)


def undisturbed(tmp_path: Path):
    clean = Machinery(root=str(tmp_path / "clean"), faults=tmp_path / "no_faults")
    upstream = clean.upstream()
    clean.run(Brightness(), upstream)
    return clean.arrays(output_ref(Brightness(), upstream, clean.root))
