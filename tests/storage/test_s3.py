import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from made_stores import N, clips, created, filled, manifest, reject, write
from s3_server import S3Server, s3_server

from storage.errors import CorruptShard
from storage.files import open_files
from storage.stores import cleanup, store
from storage.stores.results import open_result, open_writer
from storage.stores.rows import open_rows
from storage.stores.verify import verify


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def root(s3: S3Server) -> str:
    return f"s3://bucket-{uuid4().hex}/data/robots"  # a fresh bucket, as clients are kept by bucket


def test_a_store_is_made_read_and_deleted(s3, root):
    arrays = clips()
    ref = filled(created(root), arrays, rejected=(2, 9))
    rows, made = open_rows(ref), np.setdiff1d(np.arange(N), (2, 9))
    for name, array in arrays.items():
        assert rows.gather(name, made).tobytes() == array[made].tobytes()
    assert rows.rejected == [reject(2), reject(9)]
    assert verify(ref, "full") == [] and cleanup.list_stores(root) == [ref]
    assert {
        key.split("/", 1)[1].rsplit("/", 2)[0] for key in s3.objects if key.endswith("format.json")
    } == {"data"}
    cleanup.delete(ref)
    assert [key for key in s3.objects if "/stores/" in key] == [] and cleanup.list_stores(
        root
    ) == []


def test_lists_longer_than_one_answer_are_read_to_their_end(s3, root):
    s3.page = 3
    ref = filled(created(root, manifest(clips_per_shard=1)), clips())
    assert store.missing_shards(ref) == [] and len(store.read_records(ref)) == N
    assert verify(ref) == []
    lost = write(ref, 4, clips())
    assert cleanup.sweep(root, older_than_s=0.0) == [f"{ref.uri}/{lost.part}"]
    assert verify(ref, "full") == []


@pytest.mark.parametrize("lost", [1, 2])
def test_a_commit_whose_answer_was_lost_counts(s3, root, lost):
    """The client repeats the request and gets a 412 because of its own first write."""
    ref = created(root)
    first, second = write(ref, 0, clips(1)), write(ref, 0, clips(2))
    s3.lose_answers = lost
    assert store.commit(ref, first) and s3.lose_answers == lost - 1
    assert sum(request.startswith("PUT") and "/commits/" in request for request in s3.requests) == 2
    s3.lose_answers = 0
    assert not store.commit(ref, second)
    assert store.read_records(ref)[0] == first


def test_of_committers_that_race_one_wins(s3, root):
    ref = created(root)
    records = [write(ref, 0, clips(seed)) for seed in range(4)]
    barrier, won = threading.Barrier(4), [False] * 4

    def race(i: int) -> None:
        barrier.wait()
        won[i] = store.commit(ref, records[i])

    threads = [threading.Thread(target=race, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 1 and store.read_records(ref)[0] == records[won.index(True)]


def test_large_files_are_uploaded_in_parts(s3, root):
    chunks = [bytes([i]) * (1 << 20) for i in range(40)]
    written = open_files(root).write("large", chunks)
    assert written.size == 40 << 20 and open_files(root).read("large") == b"".join(chunks)
    assert sum(request.startswith("PUT") for request in s3.requests) > 1 and s3.uploads == {}


def test_small_files_take_one_request(s3, root):
    open_files(root).write("small", [b"a", b"b"])
    assert [request.split()[0] for request in s3.requests] == ["PUT"]


def test_a_failed_write_leaves_no_file(s3, root):
    def chunks() -> Iterator[bytes]:
        yield b"x" * (20 << 20)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        open_files(root).write("half", chunks())
    assert not open_files(root).exists("half") and list(open_files(root).walk("")) == []


def test_a_cut_object_is_found_on_reading(s3, root):
    ref = filled(created(root), clips())
    path = next(key for key in s3.objects if "/tokens/c/" in key)
    for length in (len(s3.objects[path]) - 1, 1, 0):
        s3.objects[path] = s3.objects[path][:length]
        with pytest.raises(CorruptShard, match="tokens/c"):
            open_rows(ref).gather("tokens", np.arange(N))


def test_a_result_is_published_and_fetched(s3, root, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path))
    ref = created(root, manifest("result"))
    with open_writer(ref) as out:
        (out.path / "weights.bin").write_bytes(b"w" * 1000)
        (out.path / "notes").mkdir()
        (out.path / "notes" / "a.md").write_text("# a")
        s3.lose_answers = 1
        out.finish({"loss": 0.5})
    result = open_result(ref)
    assert result.numbers == {"loss": 0.5} and result.file("notes/a.md").read_text() == "# a"
    assert (result.path / "weights.bin").read_bytes() == b"w" * 1000
    assert verify(ref, "full") == []
