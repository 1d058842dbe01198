"""A whole file with the right digest, or none and a reason: whatever the server and the line do."""

import errno
import fcntl
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import FileServer, file_server

from storage.errors import DiskFull, DownloadError
from storage.weights.download import Patience, _Redirects, download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HASTY = Patience(tries=3, first_wait_s=0.001, silence_s=5.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "net.pth"


def fetched(server: FileServer, target: Path, place: str = "/net.pth", **expected):
    done = download(server.root + place, target, patience=HASTY, **expected)
    assert target.read_bytes() == server.content and done.size == len(server.content)
    assert [path.name for path in target.parent.iterdir()] == [target.name], (
        "nothing is left beside the file"
    )
    return done


def ranges(server: FileServer) -> list[str | None]:
    return [wanted for _, wanted in server.requests]


def test_a_file_arrives_whole_and_progress_reaches_its_size(server: FileServer, target: Path):
    seen: list[tuple[int, int | None]] = []
    done = fetched(
        server, target, on_progress=lambda *at: seen.append(at), sha256=SHA256, size=len(CONTENT)
    )
    assert (done.sha256, done.compared_with) == (SHA256, "caller")
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [at for at, _ in seen] == sorted(at for at, _ in seen)


def test_the_digest_that_the_hub_states_while_it_redirects_is_checked(
    server: FileServer, target: Path
):
    server.linked, server.tag = (
        SHA256,
        f'"{"0" * 64}"',
    )  # the store's own tag only looks like a digest
    assert fetched(server, target, "/hub/repo/net.pth").compared_with == "server"
    target.unlink()
    server.linked = "1" * 64
    with pytest.raises(
        DownloadError, match=f"has the SHA-256 {SHA256}, stated by the server is {'1' * 64}"
    ):
        download(f"{server.root}/hub/net.pth", target, patience=HASTY)
    assert not target.exists() and target.with_name("net.pth.part").stat().st_size == 0


def test_without_any_digest_it_says_so(server: FileServer, target: Path):
    assert fetched(server, target).compared_with == "nothing"


def test_a_cut_connection_goes_on_where_it_ended(server: FileServer, target: Path):
    server.cuts = [1_000_000, 500_000]
    fetched(server, target, sha256=SHA256)
    assert ranges(server) == [None, "bytes=1000000-", "bytes=1500000-"]


def test_it_goes_on_behind_a_redirect_too(server: FileServer, target: Path):
    server.linked, server.cuts = SHA256, [1_000_000]
    fetched(server, target, "/hub/repo/net.pth")
    assert server.requests[-2:] == [
        ("/hub/repo/net.pth", "bytes=1000000-"),
        ("/store/net.pth", "bytes=1000000-"),
    ]


def test_no_redirect_leads_from_https_to_http():
    request = urllib.request.Request("https://hub.example/net.pth")
    arguments = (request, None, 302, "Found", Message())
    assert _Redirects().redirect_request(*arguments, "https://store.example/net.pth") is not None
    with pytest.raises(urllib.error.HTTPError, match="without HTTPS"):
        _Redirects().redirect_request(*arguments, "http://store.example/net.pth")


def test_a_killed_download_goes_on_in_the_next_call(server: FileServer, target: Path):
    def interrupt(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{server.root}/net.pth", target, on_progress=interrupt, patience=HASTY)
    received = target.with_name("net.pth.part").stat().st_size
    assert not target.exists() and received > 1_000_000
    fetched(server, target, sha256=SHA256)
    assert ranges(server) == [None, f"bytes={received}-"]


def test_killed_after_the_last_byte_it_is_only_checked(server: FileServer, target: Path):
    def interrupt(done: int, total: int | None) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{server.root}/net.pth", target, on_progress=interrupt, patience=HASTY)
    fetched(server, target, sha256=SHA256)
    assert len(server.requests) == 1


@pytest.mark.parametrize("cuts", [[1_000_000], [1_000_000, 2_000_000]])
def test_a_server_without_ranges_starts_again(server: FileServer, target: Path, cuts: list[int]):
    server.ranges, server.cuts = False, cuts
    fetched(server, target, sha256=SHA256)


def test_a_server_that_tells_no_length(server: FileServer, target: Path):
    server.lengths = False
    assert fetched(server, target, sha256=SHA256).size == len(CONTENT)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: FileServer, target: Path, ranges: bool
):
    """Its beginning would be the old file's, its end the new one's."""
    server.cuts = [1_000_000]
    with pytest.raises(DownloadError, match="ended after 1000000 of 3000000 bytes"):
        download(f"{server.root}/net.pth", target, patience=Patience(tries=1))
    server.content, server.tag, server.ranges = CONTENT[::-1], '"second"', ranges
    fetched(server, target)


def test_part_of_a_file_that_grew_shorter_is_thrown_away(server: FileServer, target: Path):
    server.cuts = [2_000_000]
    with pytest.raises(DownloadError):
        download(f"{server.root}/net.pth", target, patience=Patience(tries=1))
    server.content, server.tag = CONTENT[:1_000], '"second"'
    fetched(server, target)


def test_without_anything_that_identifies_the_file_it_starts_again(
    server: FileServer, target: Path
):
    server.tag, server.cuts = "", [1_000_000]
    fetched(server, target)
    assert ranges(server) == [None, None]


def test_bytes_of_unknown_origin_are_thrown_away(server: FileServer, target: Path):
    target.parent.mkdir()
    target.with_name("net.pth.part").write_bytes(b"of something else")
    fetched(server, target, sha256=SHA256)
    assert ranges(server) == [None]


def test_another_file_than_published_is_deleted_and_named(server: FileServer, target: Path):
    with pytest.raises(
        DownloadError, match=f"has the SHA-256 {SHA256}, published is {'a' * 64}; it was deleted"
    ):
        download(f"{server.root}/net.pth", target, sha256="a" * 64, patience=HASTY)
    assert not target.exists() and target.with_name("net.pth.part").stat().st_size == 0
    fetched(server, target, sha256=SHA256)


def test_another_file_is_refused_before_it_is_fetched(server: FileServer, target: Path):
    server.linked = "b" * 64
    with pytest.raises(
        DownloadError,
        match=f"the server has a file with the SHA-256 {'b' * 64}, published is {SHA256}",
    ):
        download(f"{server.root}/hub/net.pth", target, sha256=SHA256, patience=HASTY)
    with pytest.raises(DownloadError, match="a file of 3000000 bytes, published is 3000001"):
        download(f"{server.root}/net.pth", target, size=3_000_001, patience=HASTY)
    assert target.with_name("net.pth.part").stat().st_size == 0


def test_a_busy_server_is_asked_again(server: FileServer, target: Path):
    server.refusals = [503, 429]
    fetched(server, target, sha256=SHA256)
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_left_after_so_many_tries(server: FileServer, target: Path):
    server.refusals = [503] * 9
    with pytest.raises(DownloadError, match=rf"127.0.0.1:{server.server_port} answers 503"):
        download(f"{server.root}/net.pth", target, patience=HASTY)
    assert len(server.requests) == HASTY.tries


def test_every_byte_renews_the_patience(server: FileServer, target: Path):
    server.cuts = [100_000] * 10
    fetched(server, target, sha256=SHA256)
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    ("status", "says"), [(404, "answers 404"), (403, "only a browser"), (401, "wants a login")]
)
def test_a_refusal_ends_it_at_once_and_says_what_to_do(
    server: FileServer, target: Path, status: int, says: str
):
    server.refusals = [status] * 9
    with pytest.raises(DownloadError, match=rf"{says}.*download it by hand.*put it at {target}"):
        download(f"{server.root}/net.pth", target, patience=HASTY)
    assert len(server.requests) == 1


def test_nobody_answers(target: Path):
    with pytest.raises(
        DownloadError, match=r"127.0.0.1:9 cannot be reached: .*machine if this one is offline"
    ):
        download("http://127.0.0.1:9/net.pth", target, patience=HASTY)


def test_a_full_disk_is_known_before_the_first_byte(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000, total=2_000_000)
    )
    with pytest.raises(DiskFull, match=r"needs 3 MB more and .* has 1 MB free"):
        download(f"{server.root}/net.pth", target, patience=HASTY)
    assert target.with_name("net.pth.part").stat().st_size == 0


class FullDisk(FileIO):
    """A file on a disk with room for 1 MB, which now and then takes less than it is given."""

    def write(self, piece, /) -> int:
        if self.seek(0, os.SEEK_END) > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(piece)[:9_999])


def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr("storage.weights.download.FileIO", FullDisk)
        with pytest.raises(DiskFull, match="the disk is full"):
            download(f"{server.root}/net.pth", target, patience=HASTY)
    kept = target.with_name("net.pth.part").stat().st_size
    assert 1_000_000 < kept < len(CONTENT)
    fetched(server, target, sha256=SHA256)
    assert ranges(server)[-1] == f"bytes={kept}-"


def test_one_process_at_a_time(server: FileServer, target: Path):
    target.parent.mkdir()
    with target.with_name("net.pth.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="being fetched by another process"):
            download(f"{server.root}/net.pth", target, patience=HASTY)
    assert server.requests == []
    fetched(server, target, sha256=SHA256)
