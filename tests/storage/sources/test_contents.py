import io
import os
import sqlite3
import tarfile
from pathlib import Path

import pytest
from small_disk import fill, make_room, small_disk, use_up_inodes

from storage.sources import contents, file_state
from storage.sources.contents import WHOLE_BYTES, contents_digest, file_digests
from storage.sources.file_ref import FileRef
from storage.sources.file_state import FileState


def digest(path: Path) -> str:
    return contents_digest(FileRef(path=path))


def change(path: Path, at: int, byte: bytes = b"\xff") -> None:
    """One byte, in place; the file keeps its size and its times."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(byte)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files count as unchanged for long as soon as they are written."""
    monkeypatch.setattr(file_state, "SETTLED_S", -60.0)


@pytest.mark.parametrize("at", [0, 4000, 9999])
def test_any_byte_of_a_small_file_counts(tmp_path, at):
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(10_000))
    before = digest(path)
    assert before == digest(path)
    change(path, at)
    assert digest(path) != before


@pytest.mark.parametrize("name", ["proprio_stats.h5", "x.json", "x.parquet", "x.csv"])
def test_files_of_numbers_and_text_are_digested_whole(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bytes(3 * WHOLE_BYTES))
    before = digest(path)
    change(path, 1_234_567)
    assert digest(path) != before


def block_starts(size: int) -> list[int]:
    last = size - contents.BLOCK_BYTES
    return [last * i // (contents.N_BLOCKS - 1) for i in range(contents.N_BLOCKS)]


def test_of_a_large_file_size_ends_and_blocks_between_count(tmp_path):
    path, size = tmp_path / "a.mp4", 4 * WHOLE_BYTES
    path.write_bytes(bytes(size))
    seen = [digest(path)]
    for at in (0, block_starts(size)[15], size - 1):
        change(path, at)
        seen.append(digest(path))
    longer = tmp_path / "b.mp4"
    longer.write_bytes(bytes(size + 1))
    assert len({*seen, digest(longer)}) == 5


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def large_box(kind: bytes, content: bytes) -> bytes:
    return (1).to_bytes(4, "big") + kind + (16 + len(content)).to_bytes(8, "big") + content


@pytest.mark.parametrize("mdat", [box, large_box])
def test_the_index_of_a_container_counts_wherever_it_is(tmp_path, mdat):
    """Another encoding that happens to have the same length has other frame sizes."""
    path = tmp_path / "a.mp4"
    start = box(b"ftyp", b"isom") + mdat(b"mdat", bytes(2_000_000))
    path.write_bytes(start + box(b"moov", bytes(200_000)) + box(b"free", bytes(2_000_000)))
    before = digest(path)
    at = len(start) + 100_000
    blocks = [range(a, a + contents.BLOCK_BYTES) for a in block_starts(path.stat().st_size)]
    assert not any(at in block for block in blocks), "no block shows it"
    change(path, at)
    assert digest(path) != before


def test_what_claims_to_be_a_container_is_read_within_bounds(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes((2**31).to_bytes(4, "big") + b"moov" + bytes(2 * WHOLE_BYTES))
    assert len(digest(path)) == 32
    path.write_bytes(bytes(2 * WHOLE_BYTES))  # boxes of no length
    assert len(digest(path)) == 32


def test_a_tar_counts_by_its_members(tmp_path):
    path = tmp_path / "1-2.tar"
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo("648642/proprio_stats.h5")
        member.size = 3 * WHOLE_BYTES
        out.addfile(member, io.BytesIO(bytes(member.size)))
    before = digest(path)
    change(path, 512 + 1_234_567)
    assert digest(path) != before
    path.write_bytes(path.read_bytes()[:5000])  # cut: no members can be listed
    assert len(digest(path)) == 32


def test_unchanged_files_are_not_opened_again(tmp_path, settled, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode())
    first = file_digests(paths)
    assert len(set(first)) == 3
    opened = []
    monkeypatch.setattr(
        contents, "contents_digest", lambda file: opened.append(file.path.name) or "new"
    )
    assert file_digests(paths) == first and not opened
    change(paths[1], 0, b"B")  # size and mtime stay
    assert file_digests(paths) == [first[0], "new", first[2]] and opened == ["b"]
    replaced = tmp_path / "c.new"
    replaced.write_bytes(b"C")
    times = paths[2].stat()
    os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns))
    replaced.rename(paths[2])
    assert file_digests(paths)[2] == "new"


def test_a_file_that_was_just_written_is_not_trusted_to_stay(tmp_path, cache):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    file_digests([path])
    with sqlite3.connect(cache / "contents.sqlite") as connection:
        assert connection.execute("select count(*) from contents").fetchone() == (0,)
    assert not FileState.of(path).settled(path.stat().st_mtime)


def test_what_cannot_be_read_has_its_reason_as_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    found = file_digests([tmp_path / "gone.mp4", tmp_path / "a"])
    assert found[0].startswith("unreadable: ") and str(tmp_path) not in found[0]
    assert len(found[1]) == 32


def test_a_damaged_cache_is_no_loss(tmp_path, cache, settled):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    first = file_digests([path])
    (cache / "contents.sqlite").write_bytes(b"no database " * 100)
    assert file_digests([path]) == first


def test_progress_ends_at_the_number_of_files(tmp_path):
    for i in range(250):
        (tmp_path / f"{i}").write_bytes(bytes([i]))
    seen: list[tuple[int, int]] = []
    file_digests(sorted(tmp_path.glob("*[0-9]")), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 250), (250, 250)]


@pytest.mark.parametrize("exhaust", [fill, use_up_inodes])
def test_a_full_cache_is_said_and_no_loss(tmp_path, settled, monkeypatch, exhaust):
    (tmp_path / "a.json").write_text("1")
    expected = file_digests([tmp_path / "a.json"])
    with small_disk(tmp_path / "disk", inodes=50) as disk:
        monkeypatch.setenv("ROBOSCAPE_CACHE", str(disk / "cache"))
        exhaust(disk)
        with pytest.warns(UserWarning, match=r"not remembered: the disk is full .*cache"):
            assert file_digests([tmp_path / "a.json"]) == expected
        make_room(disk)
        for _ in range(2):
            assert file_digests([tmp_path / "a.json"]) == expected
