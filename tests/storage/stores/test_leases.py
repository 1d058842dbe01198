"""Users of a root see each other, whatever the storage, and whatever ends them."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from made_stores import KEY, in_child

from storage.errors import StoreInUse, UnreadableRecord
from storage.files import open_files
from storage.processes import HEARTBEAT_TIMEOUT_S
from storage.stores import leases
from storage.stores.leases import ALL, LEASES, USES, Lease, hold, read_records
from storage.stores.records import StoreRef

DEPTH, CLIP = f"depth/{KEY}", f"clip/{KEY}"


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}/prefix"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.01)


def names(root: str, folder: str) -> list[str]:
    return open_files(root).list(folder)


def held(root: str, home: str = "/a", run: str = "r1"):
    return hold(root, home=home, what=f"run {run}", run=run)


def test_a_lease_is_there_while_it_is_held_and_a_runs_use_stays(root: str):
    with held(root) as lease:
        lease.acquire(uses={CLIP}, makes={DEPTH})
        (record,) = read_records(root, LEASES)
        assert record.user == lease.user and record.alive(time.time())
    assert names(root, LEASES) == []
    (record,) = read_records(root, USES)
    assert record.user is not None and (record.user.home, record.user.run) == ("/a", "r1")
    assert record.user.uses == {CLIP, DEPTH} and not record.user.makes
    with hold(root, home="/a", what="`roboscape gc`") as lease:
        lease.acquire(removes=ALL)
    assert len(read_records(root, USES)) == 1, "a command is no run that needs stores later"


@pytest.mark.parametrize(
    ("mine", "theirs", "refused"),
    [
        ({"uses": {CLIP}}, {"uses": {CLIP}}, False),
        ({"uses": {CLIP}}, {"makes": {CLIP}}, False),
        ({"makes": {CLIP}}, {"makes": {DEPTH}}, False),
        ({"makes": {CLIP}}, {"makes": {CLIP}}, True),
        ({"removes": {CLIP}}, {"uses": {DEPTH}}, False),
        ({"removes": {CLIP}}, {"uses": {CLIP, DEPTH}}, True),
        ({"removes": {CLIP}}, {"removes": {CLIP}}, True),
        ({"removes": ALL}, {"uses": {DEPTH}}, True),
        ({"removes": ALL}, {}, True),
    ],
)
def test_what_excludes_each_other(root: str, mine, theirs, refused: bool):
    for first, second in ((mine, theirs), (theirs, mine)):
        with held(root, "/a", "r1") as one:
            one.acquire(**first)
            with held(root, "/b", "r2") as two:
                if not refused:
                    two.acquire(**second)
                    continue
                before = two.user
                with pytest.raises(StoreInUse, match=r"run r1 of .* /a \(process \d+ on "):
                    two.acquire(**second)
                assert two.user == before, "it stepped back"


def test_one_that_waits_says_for_whom_and_goes_on_when_it_has_ended(root: str):
    said: list[str] = []
    ref = StoreRef.under(root, DEPTH)
    with held(root, "/b", "r2") as two:
        with held(root, "/a", "r1") as one, one.making(ref, None):
            waiter = threading.Thread(
                target=lambda: two.acquire(makes={DEPTH}, wait=said.append), daemon=True
            )
            waiter.start()
            until = time.monotonic() + 30
            while not said and time.monotonic() < until:
                time.sleep(0.01)
            assert waiter.is_alive()
        waiter.join(30)
        assert not waiter.is_alive() and two.user.makes == {DEPTH}
    assert len(said) == 1 and f"{DEPTH} is being made by run r1 of the workspace /a" in said[0]


def test_a_killed_users_lease_is_in_nobodys_way(tmp_path: Path):
    root = str(tmp_path)

    def killed() -> None:
        with held(root) as lease:
            lease.acquire(makes={DEPTH})
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == signal.SIGKILL
    assert len(names(root, LEASES)) == 1
    with held(root, "/b", "r2") as lease:
        lease.acquire(makes={DEPTH}, removes={DEPTH})


def test_a_process_id_that_lives_again_is_not_the_user(root: str):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with held(root) as lease:
            process = replace(lease.user.process, pid=other.pid)
            Lease(root, replace(lease.user, id="dead", process=process)).write(
                makes=frozenset({DEPTH})
            )
            lease.acquire(makes={DEPTH})
        other.communicate()


def test_a_user_of_another_machine_lives_by_its_heartbeat(root: str):
    """By the clock of the storage, so that a wrong one here does no harm."""
    with held(root) as lease:
        process = replace(lease.user.process, host="elsewhere")
        there = Lease(root, replace(lease.user, id="there", process=process))
        there.write(makes=frozenset({DEPTH}))
        with pytest.raises(StoreInUse, match="on elsewhere"):
            lease.acquire(makes={DEPTH})
        record = next(r for r in read_records(root, LEASES) if r.path == there.path)
        assert record.alive(record.modified + HEARTBEAT_TIMEOUT_S - 1)
        assert not record.alive(record.modified + HEARTBEAT_TIMEOUT_S + 1)


def test_a_lease_is_written_again_while_it_is_held(tmp_path: Path):
    root = str(tmp_path)
    with hold(root, home="/a", what="run", every_s=0.01) as lease:
        path = tmp_path / lease.path
        path.unlink()
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until, "the lease was not written again"
            time.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"{half", b"[]", b"null", b'{"crc32c": "00000000"}'])
def test_a_record_that_cannot_be_read_never_means_unused(root: str, content: bytes):
    open_files(root).write(f"{LEASES}/odd.json", [content])
    with held(root) as lease:
        lease.acquire(uses={CLIP}, makes={DEPTH})  # two that make one store lose only time
        for removes in ({CLIP}, ALL):
            with pytest.raises(UnreadableRecord, match=r"leases/odd\.json cannot be read"):
                lease.acquire(removes=removes)
        assert lease.user.removes == frozenset()
