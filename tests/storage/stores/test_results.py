import errno
import hashlib
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest
from made_stores import created, flip, in_child, killed_at, manifest, tree

from storage.errors import CorruptFile, IncompleteStore, StoreConflict, StoreError
from storage.files import LocalFiles, open_files
from storage.stores import cleanup, store
from storage.stores.records import StoreRef
from storage.stores.results import open_result, open_writer
from storage.stores.verify import verify

CONTENT = {"metrics.csv": b"psnr\n21.5\n", "checkpoints/last.pt": os.urandom(3000), "empty": b""}


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "root") if request.param == "local" else f"memory://{uuid4().hex}/prefix"


def new(root: Path | str) -> StoreRef:
    return created(root, manifest("result", stage="train"))


def put(folder: Path, content: dict[str, bytes] = CONTENT) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def published(ref: StoreRef, content: dict[str, bytes] = CONTENT) -> StoreRef:
    with open_writer(ref) as writer:
        put(writer.path, content)
        writer.finish({"psnr": 21.5})
    assert not writer.path.exists()
    return ref


def assert_holds(ref: StoreRef, content: dict[str, bytes] = CONTENT) -> None:
    result = open_result(ref)
    assert {name: result.file(name).read_bytes() for name in result.files} == content
    assert {name: (result.path / name).read_bytes() for name in result.files} == content
    assert verify(ref, "full") == []


def test_published_files_and_numbers_come_back(root):
    ref = published(new(root))
    result = open_result(ref)
    assert result.numbers == {"psnr": 21.5}
    assert result.files == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in CONTENT.items()
    }
    assert_holds(ref)
    with pytest.raises(
        FileNotFoundError,
        match=r"has no file 'metrics.txt'; it has \['checkpoints/last.pt', 'empty'",
    ):
        result.file("metrics.txt")


def test_nothing_is_visible_before_it_is_finished(root):
    ref = new(root)
    with open_writer(ref) as writer:
        put(writer.path)
        assert not store.is_complete(ref)
        with pytest.raises(IncompleteStore, match=r"run its stage \('train'\) first"):
            open_result(ref)
        with pytest.raises(
            ValueError,
            match="the number 'psnr' is nan; expected a finite one, or none if it was not measured",
        ):
            writer.finish({"psnr": float("nan")})
        assert not store.is_complete(ref)
        writer.finish({})
    assert_holds(ref)
    with pytest.raises(StoreConflict, match="is complete already"):
        open_writer(ref)
    assert_holds(ref)


def test_work_is_kept_and_resumed(root):
    ref = new(root)
    with open_writer(ref) as writer:
        put(writer.path, {"checkpoints/last.pt": b"step 10"})
    with open_writer(ref) as writer:
        assert tree(writer.path) == {"checkpoints/last.pt": b"step 10"}
        put(writer.path, {"a": b"a"})
        writer.finish({})
    assert_holds(ref, {"checkpoints/last.pt": b"step 10", "a": b"a"})


def test_one_process_at_a_time(root):
    ref = new(root)
    with open_writer(ref) as writer:
        with pytest.raises(
            StoreConflict,
            match=rf"being made by another process \({os.getpid()} on .*\): wait for it",
        ):
            open_writer(ref)
        sent = pickle.loads(pickle.dumps(writer))
        sent.close()
        with pytest.raises(StoreConflict, match="being made"):
            open_writer(ref)
    open_writer(ref).close()


def test_a_killed_process_frees_the_lock_and_its_work_is_found(tmp_path):
    ref = new(tmp_path)
    if not (pid := os.fork()):
        writer = open_writer(ref)
        put(writer.path)
        (tmp_path / "ready").touch()
        time.sleep(100)
        os._exit(1)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(StoreConflict, match=rf"another process \({pid} on"):
        open_writer(ref)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with open_writer(ref) as writer:
        assert tree(writer.path) == CONTENT
        writer.finish({})
    assert_holds(ref)


def test_killed_at_any_moment_while_it_is_published_nothing_is_lost(tmp_path):
    moment, sealed = 0, 0

    def finish(ref: StoreRef) -> None:
        open_writer(ref).finish({})

    while True:
        ref = new(tmp_path / str(moment))
        with open_writer(ref) as writer:
            put(writer.path)
        if not killed_at(moment, lambda ref=ref: finish(ref)):
            break
        if store.is_complete(ref):
            sealed += 1
        else:
            with pytest.raises(IncompleteStore):
                open_result(ref)
            finish(ref)
        assert_holds(ref)
        moment += 1
    assert_holds(ref)
    assert moment >= 4 and sealed == 1


def test_a_second_machine_cannot_change_a_sealed_result(tmp_path, monkeypatch):
    """In an object store they see no common lock: the later one must leave the earlier one's files
    alone.
    """
    ref = new(f"memory://{uuid4().hex}/prefix")
    writers = []
    for machine in ("a", "b"):
        monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / machine))
        writers.append(open_writer(ref))
        put(writers[-1].path, {"model.pt": machine.encode() * 100})
    writers[0].finish({"loss": 1.0})
    with pytest.raises(StoreConflict, match="was completed by another process meanwhile"):
        writers[1].finish({"loss": 2.0})
    writers[1].close()
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "c"))
    assert_holds(ref, {"model.pt": b"a" * 100})
    assert open_result(ref).numbers == {"loss": 1.0}
    garbage = cleanup.sweep(ref.root, older_than_s=-1.0)
    assert len(garbage) == 1 and "/files-" in garbage[0]
    assert_holds(ref, {"model.pt": b"a" * 100})


def test_a_changed_file_is_refused(tmp_path):
    ref = published(new(tmp_path))
    flip(Path(ref.uri) / "files/checkpoints/last.pt", 8 * 1500)
    result = open_result(ref)
    assert result.file("metrics.csv").read_bytes() == CONTENT["metrics.csv"]
    with pytest.raises(
        CorruptFile, match=r"train/\w+: the SHA-256 of .*files/checkpoints/last.pt is \w+, expected"
    ):
        result.file("checkpoints/last.pt")
    (Path(ref.uri) / "files/empty").unlink()
    with pytest.raises(CorruptFile, match="files/empty is missing, expected"):
        result.file("empty")


def test_copies_in_the_cache_are_checked_and_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path))
    ref = published(new(f"memory://{uuid4().hex}"))
    copy = open_result(ref).file("checkpoints/last.pt")
    assert copy.is_relative_to(tmp_path)
    flip(copy, 77)
    assert (
        open_result(ref).file("checkpoints/last.pt").read_bytes() == CONTENT["checkpoints/last.pt"]
    )
    copy.unlink()
    files = open_files(ref.uri)
    files.write(f"{open_result(ref).folder}/checkpoints/last.pt", [b"changed"])
    with pytest.raises(CorruptFile, match="expected"):
        open_result(ref).file("checkpoints/last.pt")


def test_made_again_it_does_not_resume_from_deleted_work(root):
    ref = new(root)
    with open_writer(ref) as writer:
        put(writer.path, {"checkpoints/last.pt": b"old"})
    cleanup.delete(ref)
    new(root)
    with open_writer(ref) as writer:
        assert tree(writer.path) == {}
        put(writer.path)
        writer.finish({})
    cleanup.delete(ref)
    published(new(root), {"a": b"b"})
    assert_holds(ref, {"a": b"b"})


def test_results_and_rows_are_not_confused(tmp_path):
    ref = created(tmp_path)
    with pytest.raises(StoreError, match="holds rows of clips, not a result: use `open_rows`"):
        open_result(ref)
    with pytest.raises(StoreError, match="holds rows of clips, not a result: use `write_part`"):
        open_writer(ref)
    with pytest.raises(FileNotFoundError, match="there is no store"):
        open_writer(StoreRef.at(str(tmp_path), "train", "0" * 16))


def test_a_disk_that_fills_up_while_publishing_keeps_the_work(tmp_path, monkeypatch):
    ref, create = new(tmp_path), LocalFiles.create
    with open_writer(ref) as writer:
        put(writer.path)

        def full(self, path, data):
            with monkeypatch.context() as patch:
                patch.setattr(
                    os,
                    "write",
                    lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")),
                )
                return create(self, path, data)

        monkeypatch.setattr(LocalFiles, "create", full)
        with pytest.raises(StoreError, match=r"No space left.*while writing .*complete\.json"):
            writer.finish({})
    monkeypatch.undo()
    assert not store.is_complete(ref)
    with open_writer(ref) as writer:
        writer.finish({})
    assert_holds(ref)


def test_a_moved_root_is_still_complete(tmp_path):
    ref = published(new(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_holds(StoreRef.at(str(tmp_path / "there"), ref.stage, ref.key))
    assert (
        in_child(lambda: assert_holds(StoreRef.at(str(tmp_path / "there"), ref.stage, ref.key)))
        == 0
    )
