import errno
import os
import threading
from pathlib import Path
from uuid import uuid4

import crc32c
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import killed_at, tree

from storage import files as module
from storage.atomic import TEMP_MARK
from storage.errors import CorruptFile, DiskFull
from storage.files import FileRecord, Files, LocalFiles, open_files, read_checked


@pytest.fixture(params=["local", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return open_files(
        str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}/prefix"
    )


def names(files: Files) -> list[str]:
    return sorted(info.path for info in files.walk(""))


@settings(max_examples=30, deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=50), max_size=5),
    start=st.integers(0, 300),
    length=st.integers(1, 300),
)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_reads_return_what_was_written(tmp_path_factory, kind, chunks, start, length):
    root = (
        str(tmp_path_factory.mktemp("files")) if kind == "local" else f"memory://cut{uuid4().hex}"
    )
    files, data = open_files(root), b"".join(chunks)
    record = files.write("a/b", chunks)
    assert record == FileRecord(len(data), crc32c.crc32c(data))
    assert files.read("a/b") == data == read_checked(files, "a/b", record)
    assert files.size("a/b") == len(data)
    assert files.read_range("a/b", start, length) == data[start : start + length]


def test_large_files_round_trip(files):
    chunk = os.urandom(7 << 20)
    record = files.write("a", (chunk for _ in range(5)))
    assert record.size == 35 << 20 and files.read("a") == 5 * chunk


def test_short_writes_of_the_system_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    assert LocalFiles(str(tmp_path)).write("a", [b"0123456789"]).size == 10
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_an_interrupted_write_keeps_the_old_file(files):
    def chunks():
        yield b"x" * 100
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write("new", chunks())
    files.write("old", [b"good"])
    with pytest.raises(KeyboardInterrupt):
        files.write("old", chunks())
    assert names(files) == ["old"] and files.read("old") == b"good"


def test_killed_at_any_moment_a_file_is_old_or_new_and_the_rest_is_marked(tmp_path):
    moment = 0
    while True:
        root = tmp_path / str(moment)
        files = LocalFiles(str(root))
        files.write("a/old", [b"old"])
        killed = killed_at(
            moment,
            lambda files=files: (
                files.write("a/old", [b"n", b"ew"]),
                files.create("b/c/made", b"made"),
            ),
        )
        assert files.read("a/old") in (b"old", b"new")
        assert files.list("a") == ["old"] and files.list("b/c") in ([], ["made"])
        if files.exists("b/c/made"):
            assert files.read("b/c/made") == b"made"
        litter = [name for name in names(files) if TEMP_MARK in name]
        assert len(litter) <= 1
        if not killed:
            break
        moment += 1
    assert moment == 9  # write x 2, replace, unlink; mkdir x 2, write, link, unlink: each was tried
    assert not litter and files.read("a/old") == b"new" and files.exists("b/c/made")


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    done: list[tuple[str, str]] = []

    def logged(name: str, call, target):
        monkeypatch.setattr(
            os, name, lambda *args: (done.append((name, target(*args))), call(*args))[1]
        )

    logged(
        "fsync",
        os.fsync,
        lambda fd: Path(os.readlink(f"/proc/self/fd/{fd}")).name.partition(TEMP_MARK)[0],
    )
    logged("replace", os.replace, lambda _, to: Path(to).name)
    logged("link", os.link, lambda _, to: Path(to).name)
    files = LocalFiles(str(tmp_path))
    files.write("a/b", [b"x"])
    assert done == [("fsync", tmp_path.name), ("fsync", "b"), ("replace", "b"), ("fsync", "a")]
    done.clear()
    files.create("a/c", b"x")
    assert done == [("fsync", "c"), ("link", "c"), ("fsync", "a")]


def test_a_name_is_created_once(files):
    assert files.create("a/b", b"first")
    assert not files.create("a/b", b"second")
    assert files.read("a/b") == b"first" and names(files) == ["a/b"]


def test_of_many_that_race_for_a_name_one_wins(files):
    n_threads, n_names = 6, 25
    won: list[list[int]] = [[] for _ in range(n_names)]
    barrier = threading.Barrier(n_threads)

    def race(me: int) -> None:
        for i in range(n_names):
            barrier.wait()
            if files.create(f"race/{i}", f"writer {me}".encode()):
                won[i].append(me)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [files.read(f"race/{i}").decode() for i in range(n_names)] == [
        f"writer {who}" for (who,) in won
    ]


def test_a_request_repeated_after_a_lost_answer_has_won(monkeypatch):
    """The second PUT finds the object of the first: ours, if its bytes are."""
    files, put = open_files(f"memory://{uuid4().hex}/p"), obstore.put
    monkeypatch.setattr(
        obstore, "put", lambda *args, **kwargs: (put(*args, **kwargs), put(*args, **kwargs))
    )
    assert files.create("a", b"writer 1")
    assert not files.create("a", b"writer 2")
    assert files.read("a") == b"writer 1"


def test_a_link_reported_as_failed_after_it_was_made_has_won(tmp_path, monkeypatch):
    def link(src, dst):
        real(src, dst)
        raise FileExistsError(errno.EEXIST, "reply lost")

    real = os.link
    monkeypatch.setattr(os, "link", link)
    files = LocalFiles(str(tmp_path))
    assert files.create("a", b"mine")
    assert files.read("a") == b"mine" and names(files) == ["a"]


def test_missing_files_are_missing_in_the_same_way(files):
    files.write("a/b", [b"x"])
    for missing in ("c", "c/b", "a/b/c"):
        assert not files.exists(missing)
    for read in (files.read, files.size, lambda path: files.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("c")
    assert files.list("c") == [] == files.list("a/b") and list(files.walk("c")) == []
    files.delete("c")
    files.delete_tree("c")
    assert names(files) == ["a/b"]


def test_folders_are_listed_walked_and_deleted_alone(files):
    for path in ("a/x", "a/y/z", "ab/x", "b"):
        files.write(path, [path.encode()])
    assert files.list("a") == ["x", "y"] and files.list("") == ["a", "ab", "b"]
    assert sorted((info.path, info.size) for info in files.walk("a")) == [("a/x", 3), ("a/y/z", 5)]
    files.delete("b")
    files.delete_tree("a")
    assert names(files) == ["ab/x"]
    assert open_files(files.uri + "/ab").read("x") == b"ab/x"


def test_unfinished_files_are_walked_and_not_listed(tmp_path):
    files = LocalFiles(str(tmp_path))
    for name in ("a", f"a{TEMP_MARK}0123"):
        (tmp_path / name).touch()
    assert files.list("") == ["a"] and names(files) == ["a", f"a{TEMP_MARK}0123"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("full_at", ["write", "fsync", "link", "mkdir"])
def test_a_full_disk_says_where_and_what_to_do(tmp_path, monkeypatch, number, full_at):
    files = LocalFiles(str(tmp_path))
    files.write("kept", [b"kept"])

    def full(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, full_at, full)
    with pytest.raises(
        DiskFull,
        match=rf"{os.strerror(number)}.*while writing {tmp_path}/a/b: [\d.]+ of \d+ MB are",
    ):
        files.create("a/b", b"x" * 100)
    monkeypatch.undo()
    assert tree(tmp_path) == {"kept": b"kept"}


def test_other_errors_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "write", broken)
    with pytest.raises(OSError, match="Input/output error"):
        LocalFiles(str(tmp_path)).write("a", [b"x"])
    assert tree(tmp_path) == {}


def test_changed_bytes_are_found(files):
    record = files.write("a", [b"0123"])
    for other in (b"0124", b"012", b"01234", b""):
        files.write("a", [other])
        with pytest.raises(CorruptFile, match="/a was changed after it was written"):
            read_checked(files, "a", record)


def test_other_addresses_are_refused():
    with pytest.raises(
        ValueError, match="expected a local folder or s3://bucket/prefix, found 'ftp://'"
    ):
        open_files("ftp://host/a")
