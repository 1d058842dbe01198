import errno
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from made_stores import (
    DEPTH,
    RGB,
    STEP,
    TOKENS,
    N,
    clips,
    created,
    filled,
    in_child,
    killed_at,
    manifest,
    reject,
    stop_at_write,
    tree,
    write,
)  # fmt: skip

from storage.errors import CorruptShard, DiskFull, IncompleteStore, StoreConflict
from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.records import PartRecord, StoreRef, encode_document
from storage.stores.rows import open_rows
from storage.stores.shards import shard_path
from storage.stores.verify import verify

REJECTED = (2, 9)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}/prefix"


def together(*jobs: Callable[[], object]) -> list[object]:
    """The results of jobs that start at the same moment, each in a thread."""
    barrier, results = threading.Barrier(len(jobs)), [None] * len(jobs)

    def run(i: int) -> None:
        barrier.wait()
        results[i] = jobs[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def assert_holds(
    ref: StoreRef, arrays: dict[str, np.ndarray], rejected: tuple[int, ...] = ()
) -> None:
    """Asserts that a sealed store is intact and has exactly these clips."""
    assert verify(ref, "full") == []
    rows = open_rows(ref)
    made = np.setdiff1d(np.arange(N), rejected)
    np.testing.assert_array_equal(np.flatnonzero(rows.ok), made)
    for name, array in arrays.items():
        assert rows.gather(name, made).tobytes() == array[made].tobytes()


# Create, write, commit, seal


def test_what_is_written_is_there_once_it_is_sealed(root):
    arrays = clips()
    ref = filled(created(root), arrays, REJECTED)
    assert_holds(ref, arrays, REJECTED)
    seal = store.read_complete(ref)
    assert (seal["n_clips"], seal["made"], seal["rejected"], seal["reasons"]) == (
        N,
        8,
        2,
        {"shot_cut": 2},
    )
    assert seal["seconds"] == 1.5 and len(seal["parts"]) == 3
    assert seal["n_bytes"] == sum(i.size for i in open_files(ref.uri).walk("parts"))
    assert store.read_rejected(ref) == [reject(2), reject(9)] == open_rows(ref).rejected
    assert cleanup.list_stores(root) == [ref]


def test_shards_cut_the_rows_without_gap_or_overlap():
    for n in range(12):
        of = manifest(n_clips=n)
        assert [row for shard in range(of.n_shards) for row in store.shard_rows(of, shard)] == list(
            range(n)
        )
        for shard in (-1, of.n_shards):
            with pytest.raises(IndexError, match=f"has no shard {shard}; it has {of.n_shards}"):
                store.shard_rows(of, shard)


def test_a_store_of_no_clips_can_be_sealed(root):
    ref = filled(created(root, manifest(n_clips=0)), clips())
    assert len(open_rows(ref)) == 0 and verify(ref, "full") == []


def test_nothing_is_visible_before_its_commit_and_nothing_whole_before_the_seal(root):
    ref, arrays = created(root), clips()
    record = write(ref, 1, arrays)
    assert store.missing_shards(ref) == [0, 1, 2] and store.read_records(ref) == {}
    assert not open_rows(ref, partial=True).ok.any()
    assert store.commit(ref, record)
    assert store.missing_shards(ref) == [0, 2] and store.read_records(ref) == {1: record}
    assert np.flatnonzero(open_rows(ref, partial=True).ok).tolist() == [4, 5, 6, 7]
    assert not store.is_complete(ref)
    with pytest.raises(IncompleteStore, match=r"is not complete: run its stage \('clip'\)"):
        open_rows(ref)
    with pytest.raises(
        IncompleteStore, match=r"2 of 3 shards are missing \(0, 2\); run stage 'clip' again"
    ):
        store.seal(ref)
    assert not store.is_complete(ref)
    assert_holds(filled(ref, arrays), arrays)


def test_a_rejected_row_is_stored_as_fill_whatever_was_in_it(root):
    ref, arrays = created(root), clips()
    record = write(ref, 0, arrays, rejected=(2,))
    changed = {name: array.copy() for name, array in arrays.items()}
    for array in changed.values():
        array[2] = 7
    assert write(ref, 0, changed, rejected=(2,)).files.items() >= {
        (path, file) for path, file in record.files.items() if "/c/" in path
    }


def test_rejects_are_read_without_threads_of_arrow(tmp_path):
    """One that still held the file's bytes when Python ended has aborted `roboscape inspect`."""
    ref = filled(created(tmp_path), clips(), rejected=(3,))
    code = """
import os, sys
from storage.stores import store
from storage.stores.records import StoreRef
import pyarrow.parquet
before = len(os.listdir("/proc/self/task"))
assert [reject.row for reject in store.read_rejected(StoreRef(sys.argv[1]))] == [3]
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code, ref.uri], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_equal_data_have_equal_digests_and_other_data_others(tmp_path):
    arrays, changed = clips(), clips()
    changed["tokens"][9, 0, 0] += 1
    made = [filled(created(tmp_path / str(i)), a) for i, a in enumerate([arrays, arrays, changed])]
    digests = [store.read_complete(ref)["digest"] for ref in made]
    assert digests[0] == digests[1] != digests[2]


def test_sealing_again_and_at_once_gives_the_one_seal(root):
    ref = created(root)
    for shard in range(3):
        store.commit(ref, write(ref, shard, clips()))
    seals = together(*[lambda: store.seal(ref)] * 4)
    assert all(seal == seals[0] for seal in seals) and store.seal(ref) == seals[0]
    assert verify(ref) == []


def test_sealing_again_writes_nothing(tmp_path):
    ref = filled(created(tmp_path), clips())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    store.seal(ref)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Two writers


def test_of_two_attempts_at_a_shard_the_first_counts(root):
    ref = created(root)
    first, second = write(ref, 0, clips(1)), write(ref, 0, clips(2))
    assert store.commit(ref, first)
    assert not store.commit(ref, second)
    assert store.commit(ref, first), "a driver that repeats itself finds its own commit"
    rows = open_rows(ref, partial=True)
    np.testing.assert_array_equal(rows.gather("tokens", np.arange(4)), clips(1)["tokens"][:4])
    assert verify(ref, "full") == []


def test_of_committers_that_race_exactly_one_wins(root):
    ref = created(root)
    for shard in range(3):
        records = [write(ref, shard, clips(seed)) for seed in range(4)]
        won = together(*[lambda record=record: store.commit(ref, record) for record in records])
        assert sum(map(bool, won)) == 1
        assert store.read_records(ref)[shard] == records[won.index(True)]
    store.seal(ref)
    assert verify(ref, "full") == []


def test_creating_again_keeps_the_store_and_its_shards(root):
    ref = filled(created(root), clips())
    store.create(ref, manifest(clips_per_shard=3, attributes={"new": 1}, code={"commit": "b"}))
    assert store.read_manifest(ref).clips_per_shard == STEP
    assert_holds(ref, clips())


@pytest.mark.parametrize(
    "change",
    [{"parameters": {"size": 6}}, {"version": 2}, {"n_clips": 11}, {"specs": (TOKENS, DEPTH)}],
)
def test_another_recipe_under_the_same_key_is_refused(root, change):
    ref = created(root)
    with pytest.raises(
        StoreConflict, match=f"exists with another {next(iter(change))}: found .*, expected"
    ):
        store.create(ref, manifest(**change))
    assert (
        store.read_manifest(ref).to_json()
        == manifest(created=store.read_manifest(ref).created).to_json()
    )


# What is refused


def test_other_formats_are_refused_and_later_minor_versions_read(root):
    ref, files = filled(created(root), clips()), open_files(root)
    for name, version, good in [
        ("roboscape-stores", "1.7", True), ("roboscape-stores", "2.0", False),
        ("roboscape-stores", "11.0", False), ("other", "1.0", False),
    ]:  # fmt: skip
        files.write(
            "format.json", [encode_document({"name": name, "version": version, "later": 1})]
        )
        if good:
            assert_holds(ref, clips())
            continue
        for refused in (lambda: open_rows(ref), lambda: store.create(ref, manifest())):
            with pytest.raises(StoreConflict, match=re.escape(version)):
                refused()


def test_a_missing_store_is_reported(root):
    ref = StoreRef.at(root, "clip", "0" * 16)
    assert not store.exists(ref) and not store.is_complete(ref) and cleanup.list_stores(root) == []
    for call in (
        lambda: open_rows(ref),
        lambda: store.read_manifest(ref),
        lambda: write(ref, 0, clips()),
    ):
        with pytest.raises(FileNotFoundError, match=rf"there is no store {ref.uri}.*'clip'"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": None}, r"got arrays \['depth', 'rgb'\], expected \['tokens', 'depth', 'rgb'\]"),
        ({"extra": np.zeros(4)}, "got arrays .*'extra'"),
        (
            {"tokens": np.zeros((4, 3, 4), np.int64)},
            r"rows 0 to 4: array 'tokens' is int64.*, expected int32\[4, 3, 4\]",
        ),
        (
            {"depth": np.zeros((3, 5, 4), np.float16)},
            r"'depth' is float16\[3, 5, 4\], expected float16\[4, 5, 4\]",
        ),
    ],
)
def test_arrays_other_than_the_specs_are_refused(tmp_path, change, message):
    ref = created(tmp_path)
    block = {name: array[:4] for name, array in clips().items()} | change
    with pytest.raises(ValueError, match=message):
        store.write_part(
            ref, 0, {name: array for name, array in block.items() if array is not None}, [], 0.0
        )
    assert not (Path(ref.uri) / "parts").exists()


@pytest.mark.parametrize("rejected", [[4], [-1], [2, 2]])
def test_rejects_that_do_not_fit_are_refused(tmp_path, rejected):
    ref = created(tmp_path)
    with pytest.raises(
        ValueError, match=rf"rejected twice or not in this shard: \[{rejected[0]}\]"
    ):
        store.write_part(
            ref, 0, {n: a[:4] for n, a in clips().items()}, [reject(row) for row in rejected], 0.0
        )


def test_a_part_with_a_cut_or_missing_file_is_not_committed(root):
    ref, files = created(root), open_files(StoreRef.at(root, "clip", manifest().key).uri)
    for spoil in (lambda path: files.write(path, [files.read(path)[:-1]]), files.delete):
        record = write(ref, 0, clips())
        for path in record.files:
            good = files.read(f"{record.part}/{path}")
            spoil(f"{record.part}/{path}")
            with pytest.raises(
                CorruptShard, match=f"{path} has .* bytes, {len(good)} were written: not committed"
            ):
                store.commit(ref, record)
            files.write(f"{record.part}/{path}", [good])
    assert store.missing_shards(ref) == [0, 1, 2]


def test_clips_must_be_made_or_rejected(tmp_path):
    ref = created(tmp_path)
    with pytest.raises(ValueError, match="4 clips in, 3 made and 0 rejected"):
        store.commit(ref, replace(write(ref, 0, clips()), made=3))
    assert store.missing_shards(ref) == [0, 1, 2]


def test_a_part_that_reads_back_differently_is_deleted(tmp_path, monkeypatch):
    ref, encode = created(tmp_path), store.encode_shard
    monkeypatch.setattr(
        store,
        "encode_shard",
        lambda block, *args: encode(block ^ 1 if block.dtype == "u1" else block, *args),
    )
    with pytest.raises(
        CorruptShard, match=r"parts/00000002-\w+: array 'rgb' reads back differently.*\(row 9\)"
    ):
        write(ref, 2, clips())
    assert tree(Path(ref.uri) / "parts") == {}


# Killed, full, damaged


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_an_interrupted_part_is_deleted_and_the_others_kept(tmp_path, monkeypatch, error):
    ref, arrays = created(tmp_path), clips()
    store.commit(ref, write(ref, 0, arrays))
    before = tree(tmp_path)
    for number in range(7):  # three shards, four zarr.json
        with monkeypatch.context() as patch:
            stop_at_write(patch, number, error)
            full = isinstance(error, OSError)
            with pytest.raises(DiskFull if full else KeyboardInterrupt) as raised:
                write(ref, 1, arrays)
        if full:
            assert re.search(
                r"store clip/\w+, shard 1 \(0.0 MB uncompressed\): the disk is full "
                rf"\(No space left on device\) while writing {tmp_path}/.*[\d.]+ of \d+ MB are "
                "free",
                str(raised.value),
            )
        assert tree(tmp_path) == before
    assert_holds(filled(ref, arrays), arrays)


ONE = manifest(specs=(TOKENS,), n_clips=3, clips_per_shard=2)


def one_array() -> dict[str, np.ndarray]:
    return {"tokens": clips()["tokens"][:3]}


def parts_with_files(ref: StoreRef) -> set[str]:
    return {f"parts/{path.split('/')[0]}" for path in tree(Path(ref.uri) / "parts")}


def test_killed_at_any_moment_a_store_is_complete_or_visibly_not_and_can_be_resumed(tmp_path):
    """After every prefix of the disk operations of creating, writing, committing and sealing."""
    moment, sealed = 0, 0
    while killed_at(
        moment,
        lambda moment=moment: filled(created(tmp_path / str(moment), ONE), one_array(), (2,)),
    ):
        ref = StoreRef.at(str(tmp_path / str(moment)), ONE.stage, ONE.key)
        if store.is_complete(ref):
            sealed += 1
            assert store.missing_shards(ref) == []
        else:
            with pytest.raises((IncompleteStore, FileNotFoundError)):
                open_rows(ref)
        if store.exists(ref):
            assert verify(ref, "full") == []
            rows = open_rows(ref, partial=True)
            there = np.flatnonzero(rows.ok)
            np.testing.assert_array_equal(
                rows.gather("tokens", there), one_array()["tokens"][there]
            )
        filled(created(ref.root, ONE), one_array(), (2,))
        assert verify(ref, "full") == []
        np.testing.assert_array_equal(
            open_rows(ref).gather("tokens", np.arange(2)), one_array()["tokens"][:2]
        )
        cleanup.sweep(ref.root, older_than_s=-1.0)
        left = {path.split("/")[0] for path in tree(Path(ref.uri))}
        assert left == {"commits", "parts", "manifest.json", "complete.json", "rejected.parquet"}
        assert len(parts_with_files(ref)) == 2 and verify(ref, "full") == []
        moment += 1
    assert moment > 40 and sealed == 1  # the last change but one makes the seal


def test_killed_while_it_is_deleted_a_store_never_looks_complete(tmp_path):
    moment = 0
    while True:
        ref = filled(created(tmp_path / str(moment), ONE), one_array())
        killed = killed_at(moment, lambda ref=ref: cleanup.delete(ref))
        if moment:
            assert not store.is_complete(ref)
        if store.exists(ref):
            assert verify(ref, "full") == []
        cleanup.sweep(ref.root, older_than_s=-1.0)
        assert store.exists(ref) or not Path(ref.uri).exists() or tree(Path(ref.uri)) == {}
        if not killed:
            break
        moment += 1
    assert moment > 8 and not Path(ref.uri).exists()


def write_what_is_missing(ref: StoreRef, seed: int) -> None:
    """As two drivers would that do not know of each other: the same shards in any order, each
    committed at once.
    """
    shards = store.missing_shards(ref)
    random.Random(seed).shuffle(shards)
    for shard in shards:
        store.commit(ref, write_block(ref, shard))


def write_block(ref: StoreRef, shard: int) -> PartRecord:
    rows = store.shard_rows(ref, shard)
    block = np.stack([np.full(TOKENS.shape, row, np.int32) for row in rows])
    return store.write_part(ref, shard, {"tokens": block}, [], 0.0)


def test_writers_killed_again_and_again_leave_nothing_corrupt(tmp_path):
    ref = created(tmp_path, manifest(specs=(TOKENS,), n_clips=600, clips_per_shard=2))
    dice, kept = random.Random(0), {}
    for _ in range(12):
        pids = []
        for _ in range(2):
            seed = dice.random()
            if not (pid := os.fork()):
                try:
                    write_what_is_missing(ref, int(seed * 1e9))
                finally:
                    os._exit(1)
            pids.append(pid)
        for pid in pids:
            enough = len(store.read_records(ref)) + dice.randint(1, 3)
            while len(open_files(ref.uri).list("commits")) < enough:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.01))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        records = store.read_records(ref)
        assert kept.items() <= records.items(), "what was committed stays"
        kept = records
    assert len(kept) >= 24
    assert verify(ref, "full") == []
    rows = open_rows(ref, partial=True)
    there = np.flatnonzero(rows.ok)
    assert (rows.gather("tokens", there) == there[:, None, None]).all()
    named = {record.part for record in kept.values()}
    cleanup.sweep(str(tmp_path), older_than_s=-1.0)
    assert parts_with_files(ref) == named
    assert verify(ref) == []


def test_a_damaged_shard_is_retracted_and_only_it_is_made_again(root):
    arrays = clips()
    ref, files = (
        filled(created(root), arrays, REJECTED),
        open_files(StoreRef.at(root, "clip", manifest().key).uri),
    )
    seal, records = store.read_complete(ref), store.read_records(ref)
    path = f"{records[1].part}/{shard_path(RGB)}"
    files.write(path, [files.read(path)[:-1]])
    assert verify(ref) != []
    store.retract(ref, 1)
    assert not store.is_complete(ref) and store.missing_shards(ref) == [1]
    assert_holds(filled(ref, arrays, REJECTED), arrays, REJECTED)
    again = store.read_records(ref)
    assert again[1].attempt != records[1].attempt and (again[0], again[2]) == (
        records[0],
        records[2],
    )
    assert store.read_complete(ref)["digest"] == seal["digest"]


def test_a_deleted_store_is_gone_and_can_be_made_again(root):
    ref = filled(created(root), clips(1))
    cleanup.delete(ref)
    assert (
        not store.exists(ref)
        and list(open_files(root).walk("stores")) == []
        and cleanup.list_stores(root) == []
    )
    assert_holds(filled(created(root), clips(2)), clips(2))


def test_part_records_cross_processes_as_json(tmp_path):
    """A part record is all that the driver needs from a worker."""
    ref, message = created(tmp_path), tmp_path / "message"
    assert (
        in_child(lambda: message.write_text(json.dumps(write(ref, 0, clips(), (1,)).to_json())))
        == 0
    )
    assert store.commit(ref, PartRecord.from_json(json.loads(message.read_text())))
    assert np.flatnonzero(open_rows(ref, partial=True).ok).tolist() == [0, 2, 3]
    assert math.isnan(float(store.read_manifest(ref).specs[1].fill))
