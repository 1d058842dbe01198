import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT

from pipeline.orchestration.journal import (
    HEARTBEAT_TIMEOUT_S,
    close_dead,
    find_journal,
    journals,
    names_run,
    read_all,
    read_journal,
    start_journal,
)


def test_a_journal_reads_back_as_it_was_written(tmp_path: Path):
    journal = start_journal(tmp_path, {"experiment": "demo", "stages": ["depth"]})
    journal.entry("depth").state = "completed"
    journal.entry("depth").note = "3 clips"
    journal.save()
    assert read_journal(journal.path) == journal
    assert [entry.name for entry in journal.stages] == ["depth"]


def test_a_killed_driver_is_seen_and_recorded_as_crashed(tmp_path: Path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    journal = start_journal(tmp_path, {})
    journal.pid = int(dead.stdout)
    journal.entry("clip").state = "running"
    journal.save()
    assert read_journal(journal.path).true_state == "crashed"
    assert [j.id for j in close_dead(tmp_path)] == [journal.id]
    again = read_journal(journal.path)
    assert (again.state, again.stages[0].state) == ("crashed", "crashed")
    assert close_dead(tmp_path) == []


def test_a_process_id_that_lives_again_is_not_the_run(tmp_path: Path):
    """Another process with the driver's id: told apart by its start time."""
    journal = start_journal(tmp_path, {})
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        journal.pid = other.pid
        journal.save()
        again = read_journal(journal.path)
        assert not again.alive and not again.is_ours and again.true_state == "crashed"
        assert [j.id for j in close_dead(tmp_path)] == [journal.id]
        other.communicate()


def test_an_older_journal_without_a_start_time_needs_a_heartbeat_too(tmp_path: Path):
    journal = start_journal(tmp_path, {})
    plain = json.loads(journal.path.read_text())
    del plain["process_start"], plain["pid_space"]
    journal.path.write_text(json.dumps(plain))
    assert read_journal(journal.path).alive
    long_ago = time.time() - 2 * HEARTBEAT_TIMEOUT_S
    os.utime(journal.path, (long_ago, long_ago))
    assert not read_journal(journal.path).alive


def test_a_process_of_another_container_or_boot_is_judged_by_its_heartbeat(tmp_path: Path):
    journal = start_journal(tmp_path, {})
    journal.pid_space = "another boot or container, in which our process ids mean nothing"
    journal.pid = 2**22 + 1  # there is no such process here
    journal.save()
    assert read_journal(journal.path).alive
    long_ago = time.time() - 2 * HEARTBEAT_TIMEOUT_S
    os.utime(journal.path, (long_ago, long_ago))
    assert not read_journal(journal.path).alive


def test_a_run_recognizes_its_driver(tmp_path: Path):
    """A run of another process or machine that shares the workspace is not shown as ours."""
    journal = start_journal(tmp_path, {})
    assert read_journal(journal.path).is_ours
    journal.pid += 1
    assert not journal.is_ours
    journal.pid, journal.host = os.getpid(), "elsewhere"
    assert not journal.is_ours


def test_a_live_run_is_left_alone(tmp_path: Path):
    journal = start_journal(tmp_path, {})
    assert journal.pid == os.getpid() and journal.alive
    assert close_dead(tmp_path) == []


def test_runs_are_found_by_prefix_and_the_latest_by_default(tmp_path: Path):
    with pytest.raises(LookupError, match="none yet"):
        find_journal(tmp_path, None)
    first, second = start_journal(tmp_path, {"n": 1}), start_journal(tmp_path, {"n": 2})
    assert find_journal(tmp_path, first.id).request == {"n": 1}
    assert {j.id for j in journals(tmp_path)} == {first.id, second.id}
    with pytest.raises(LookupError, match="ambiguous"):
        find_journal(tmp_path, first.id[:4])
    with pytest.raises(LookupError, match=first.id):
        find_journal(tmp_path, "nothing")


def test_a_damaged_journal_is_skipped(tmp_path: Path):
    journal = start_journal(tmp_path, {})
    for i, text in enumerate(["{half", "[]", "null", '{"stages": 3}']):
        (tmp_path / f"00000000-000000-dead{i}.json").write_text(text)
    (tmp_path / "00000000-000000-folder.json").mkdir()
    assert [j.id for j in journals(tmp_path)] == [journal.id]
    assert len(read_all(tmp_path)[1]) == 5


def test_a_run_of_another_machine_is_alive_while_it_has_heartbeats(tmp_path: Path):
    journal = start_journal(tmp_path, {})
    journal.host = "another-machine"
    journal.save()
    assert read_journal(journal.path).alive
    long_ago = time.time() - 2 * HEARTBEAT_TIMEOUT_S
    os.utime(journal.path, (long_ago, long_ago))
    assert not read_journal(journal.path).alive
    with journal.heartbeat(every_s=0.01):
        until = time.monotonic() + 30
        while not read_journal(journal.path).alive:
            assert time.monotonic() < until, "the journal was not touched"
            time.sleep(0.01)
    os.utime(journal.path, (long_ago, long_ago))
    time.sleep(0.05)
    assert [j.id for j in close_dead(tmp_path)] == [journal.id]


def test_the_examples_of_run_ids_in_help_and_docs_name_runs(tmp_path: Path):
    """A run's id and its beginnings do, from the dash on; no store's key or stage does."""
    written = [*(ROOT / "pipeline" / "cli").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    examples = [
        example
        for path in written
        for example in re.findall(r"\b20\d{6}-\d[\w-]*", path.read_text())
    ]
    assert examples and all(map(names_run, examples)), examples
    run_id = start_journal(tmp_path, {}).id
    assert all(names_run(run_id[:n]) for n in range(10, len(run_id) + 1))
    for other in ("20261128", "3f2a", "clip", "clip/3f2a", f"{run_id}.json", "20261128-x"):
        assert not names_run(other), other
