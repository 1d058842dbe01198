import gzip
import io
import tarfile
from pathlib import Path

import pytest
from small_disk import fill, small_disk

from storage.sources import tars
from storage.sources.file_ref import SourceError

FILES = {
    "648642/videos/head_color.mp4": b"v" * 3000,
    "648642/depth/head_depth_000000.png": b"",
    "648649/a": b"xyz",
}


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "648642-648649.tar"
    with tarfile.open(path, "w") as out:
        folder = tarfile.TarInfo("648642")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def test_members_are_read_in_place(tar):
    found = tars.members(tar)
    assert {name: ref.read_bytes() for name, ref in found.items()} == FILES
    assert set(tars.members(tar, prefix="648642/depth/")) == {"648642/depth/head_depth_000000.png"}


def test_long_names_are_kept(tmp_path):
    name = "a" * 300 + "/videos/head_color.mp4"
    path = tmp_path / "1-1.tar"
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo(name)
        member.size = 4
        out.addfile(member, io.BytesIO(b"data"))
    assert tars.members(path)[name].read_bytes() == b"data"


def test_a_large_index_is_kept_and_read_again(tar, monkeypatch, tmp_path):
    monkeypatch.setenv("ROBOSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tars, "KEPT_FROM", 1)
    found = tars.members(tar)
    tars._index.cache_clear()
    monkeypatch.setattr(tars, "_scan", lambda *_: pytest.fail("the kept index was not used"))
    assert tars.members(tar) == found


def test_an_index_that_finds_no_room_is_said_and_used(tar, monkeypatch, tmp_path):
    monkeypatch.setattr(tars, "KEPT_FROM", 1)
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        monkeypatch.setenv("ROBOSCAPE_CACHE", str(disk / "cache"))
        with pytest.warns(UserWarning, match="not kept for the next time: the disk is full"):
            assert len(tars.members(tar)) == len(FILES)
        assert not list(disk.rglob("*.parquet*"))


@pytest.mark.parametrize("keep", [100, 2000, 4700])
def test_a_truncated_tar_is_named(tar, keep):
    whole = tar.read_bytes()
    assert keep < len(whole)
    tar.write_bytes(whole[:keep])
    with pytest.raises(SourceError, match="truncated_tar"):
        tars.members(tar)


def test_a_tar_cut_between_two_members_is_named(tar):
    end = tars.members(tar)["648642/videos/head_color.mp4"]
    tar.write_bytes(tar.read_bytes()[: end.offset + 3072])
    with pytest.raises(SourceError, match="truncated_tar"):
        tars.members(tar)


def test_a_compressed_tar_is_named(tar):
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(SourceError, match=r"compressed_tar.*decompress"):
        tars.members(tar)
