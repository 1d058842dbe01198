"""A complete file with the right digest, or none and a reason, whatever server and network do."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from file_server import FileServer, file_server
from huggingface_hub import HfFileMetadata, constants
from huggingface_hub.utils import tqdm

from storage.errors import DiskFull, DownloadError
from storage.weights import download as module
from storage.weights.download import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No wait between tries; fine chunks, so that a cut file is kept to the byte."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return seconds


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "net.pth"


@pytest.fixture
def part(target: Path) -> Path:
    return target.with_name("net.pth.part")


def fetched(server: FileServer, target: Path, place: str = "/net.pth", **expected: Any):
    done = download(server.root + place, target, **expected)
    assert target.read_bytes() == server.content and done.size == len(server.content)
    assert os.listdir(target.parent) == [target.name], "nothing is left beside the file"
    return done


def interrupt_at(n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the progress bar reaches so many bytes."""
    seen = 0

    def update(self: tqdm, n: int) -> None:
        nonlocal seen
        if seen >= n_bytes:
            raise KeyboardInterrupt
        seen += n

    monkeypatch.setattr(tqdm, "update", update)


def test_a_file_is_fetched_with_a_progress_bar(
    server: FileServer,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # a bar without a terminal
    done = fetched(server, target, sha256=SHA256, size=len(CONTENT))
    assert (done.sha256, done.basis) == (SHA256, "published")
    assert re.search(r"net\.pth: 100%.*3\.00M/3\.00M", capsys.readouterr().err)


def test_the_digest_that_the_hub_states_is_checked(server: FileServer, target: Path, part: Path):
    server.linked = SHA256
    server.tag = f'"{"0" * 64}"'  # the store's own tag only looks like a digest
    assert fetched(server, target, "/hub/repo/net.pth").basis == "server"
    target.unlink()
    server.linked = "1" * 64
    with pytest.raises(DownloadError, match=f"has the SHA-256 {SHA256}, expected {'1' * 64}; it"):
        download(f"{server.root}/hub/net.pth", target)
    assert not target.exists() and not part.exists()


def test_without_any_digest_it_says_so(server: FileServer, target: Path):
    assert fetched(server, target).basis == "first use"


def test_a_cut_connection_is_resumed(server: FileServer, target: Path):
    server.cuts = [1_000_000, 500_000]
    fetched(server, target, sha256=SHA256)
    assert server.ranges_asked() == [None, "bytes=1000000-", "bytes=1500000-"]


def test_it_is_resumed_behind_a_redirect_too(server: FileServer, target: Path):
    server.linked, server.cuts = SHA256, [1_000_000]
    fetched(server, target, "/hub/repo/net.pth")
    assert server.requests[-2:] == [
        ("GET", "/hub/repo/net.pth", "bytes=1000000-"),
        ("GET", "/store/net.pth", "bytes=1000000-"),
    ]


def test_no_redirect_leads_from_https_to_http(target: Path, monkeypatch: pytest.MonkeyPatch):
    def look_up(url: str, **_: Any) -> HfFileMetadata:
        place = "http://store.example/net.pth"
        return HfFileMetadata("0" * 40, SHA256, place, len(CONTENT), xet_file_data=None)

    monkeypatch.setattr(module, "get_hf_file_metadata", look_up)
    with pytest.raises(DownloadError, match=r"redirects to http://store.example/.*without HTTPS"):
        download("https://hub.example/net.pth", target, sha256=SHA256)


def test_an_interrupted_download_is_resumed_by_the_next_call(
    server: FileServer, target: Path, part: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        interrupt_at(1_000_000, patch)
        with pytest.raises(KeyboardInterrupt):
            download(f"{server.root}/net.pth", target, sha256=SHA256)
    assert not target.exists() and part.stat().st_size == 1_000_000
    fetched(server, target, sha256=SHA256)
    assert server.ranges_asked() == [None, "bytes=1000000-"]


def test_a_complete_part_is_only_checked(server: FileServer, target: Path, part: Path):
    """As a kill between the last byte and the check leaves it."""
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    fetched(server, target, sha256=SHA256)
    assert server.ranges_asked() == []


@pytest.mark.parametrize("cuts", [[1_000_000], [1_000_000, 2_000_000]])
def test_a_server_without_ranges_starts_again(server: FileServer, target: Path, cuts: list[int]):
    server.ranges, server.cuts = False, cuts
    fetched(server, target, sha256=SHA256)


def test_a_server_that_states_no_length(server: FileServer, target: Path):
    server.lengths = False
    assert fetched(server, target, sha256=SHA256).size == len(CONTENT)


def test_without_a_digest_an_interrupted_download_starts_again(
    server: FileServer, target: Path, part: Path
):
    """Nothing would show whether both halves are of the same file."""
    part.parent.mkdir()
    part.write_bytes(b"of something else")
    fetched(server, target)
    assert server.ranges_asked() == [None]


def test_a_part_that_is_too_long_is_discarded(server: FileServer, target: Path, part: Path):
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    fetched(server, target, sha256=SHA256)
    assert server.ranges_asked() == [None]


def test_a_mix_of_two_files_is_found_by_its_digest(server: FileServer, target: Path, part: Path):
    part.parent.mkdir()
    part.write_bytes(b"of something else")
    with pytest.raises(DownloadError, match=f"expected {SHA256}; it was deleted"):
        download(f"{server.root}/net.pth", target, sha256=SHA256)
    assert os.listdir(target.parent) == []
    fetched(server, target, sha256=SHA256)


def test_another_file_is_refused_before_it_is_fetched(server: FileServer, target: Path):
    server.linked = "b" * 64
    with pytest.raises(
        DownloadError,
        match=f"the server has a file with the SHA-256 {'b' * 64}, published is {SHA256}",
    ):
        download(f"{server.root}/hub/net.pth", target, sha256=SHA256)
    with pytest.raises(DownloadError, match="a file of 3000000 bytes, published is 3000001"):
        download(f"{server.root}/net.pth", target, size=3_000_001)
    assert server.ranges_asked() == [] and not target.parent.exists()


def test_a_busy_server_is_asked_again(server: FileServer, target: Path, waited: list[float]):
    server.busy, server.refusals = [503, 503], [429]
    fetched(server, target, sha256=SHA256)
    assert len(waited) == 2  # after the second 503 and the 429
    assert [method for method, _, _ in server.requests] == ["HEAD", "HEAD", "HEAD", "GET", "GET"]


def test_a_server_that_stays_busy_is_given_up(server: FileServer, target: Path):
    server.busy = [503] * 20
    with pytest.raises(DownloadError, match=rf"127.0.0.1:{server.server_port} answers 503"):
        download(f"{server.root}/net.pth", target)
    assert len(server.requests) < 10


def test_a_connection_without_progress_is_given_up(server: FileServer, target: Path, part: Path):
    server.cuts = [1_000_000] + [0] * 20
    with pytest.raises(DownloadError, match=r"broke: .*\. 1\.0 MB are kept for the next try\. Try"):
        download(f"{server.root}/net.pth", target, sha256=SHA256)
    assert part.stat().st_size == 1_000_000 and not target.exists()


def test_progress_resets_the_count_of_tries(server: FileServer, target: Path):
    server.cuts = [100_000] * 10
    fetched(server, target, sha256=SHA256)
    assert len(server.ranges_asked()) == 11


@pytest.mark.parametrize(
    ("status", "says"),
    [(404, "answers 404"), (403, "accept the terms on its page"), (401, "hf auth login")],
)
def test_a_refusal_ends_it_at_once_and_says_what_to_do(
    server: FileServer, target: Path, status: int, says: str
):
    server.busy = [status] * 9
    with pytest.raises(DownloadError, match=rf"{says}.*download it by hand.*put it at {target}"):
        download(f"{server.root}/net.pth", target)
    assert len(server.requests) == 1 and not target.parent.exists()


def test_without_a_network_it_fails_at_once(target: Path, waited: list[float]):
    with pytest.raises(
        DownloadError, match=r"127.0.0.1:9 cannot be reached: .*machine if this one is offline"
    ):
        download("http://127.0.0.1:9/net.pth", target)
    assert waited == []


def test_offline_mode_is_named(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        download(f"{server.root}/net.pth", target)
    assert server.requests == []


def test_the_users_token_goes_to_the_hub_only(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.linked = SHA256
    fetched(server, target, "/hub/net.pth", token=True)
    hub, store = [], []
    for (_, path, _), headers in zip(server.requests, server.headers, strict=True):
        (hub if path.startswith("/hub/") else store).append(headers.get("Authorization"))
    assert hub == ["Bearer hf_secret"] * 2 and store == [None]
    target.unlink()
    server.headers.clear()
    fetched(server, target)
    assert not any("Authorization" in headers for headers in server.headers)


def test_nothing_about_this_machine_is_sent(server: FileServer, target: Path):
    fetched(server, target)
    agents = {headers["User-Agent"] for headers in server.headers}
    assert len(agents) == 1 and re.fullmatch(r"roboscape/\S+; hf_hub/\S+; python/\S+", *agents)
    assert {path for _, path, _ in server.requests} == {"/net.pth"}


def test_a_full_disk_is_known_before_the_first_byte(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
):
    space = SimpleNamespace(free=1_000_000, total=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: space)
    with pytest.raises(DiskFull, match=r"needs 3 MB more and .* has 1 MB free"):
        download(f"{server.root}/net.pth", target)
    assert server.ranges_asked() == [] and os.listdir(target.parent) == []


def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, target: Path, part: Path, monkeypatch: pytest.MonkeyPatch
):
    def fill(url: str, file: Any, **_: Any) -> None:
        file.write(CONTENT[:1_000_000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "http_get", fill)
        with pytest.raises(DiskFull, match="the disk is full"):
            download(f"{server.root}/net.pth", target, sha256=SHA256)
    assert part.stat().st_size == 1_000_000
    fetched(server, target, sha256=SHA256)
    assert server.ranges_asked() == ["bytes=1000000-"]


def test_a_device_without_room_is_a_full_disk(server: FileServer, target: Path, part: Path):
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"No space left on device.*while writing"):
        download(f"{server.root}/net.pth", target, sha256=SHA256)
    assert not target.exists()


def test_one_process_at_a_time(server: FileServer, target: Path, part: Path):
    part.parent.mkdir()
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is fetching"):
            download(f"{server.root}/net.pth", target)
    assert server.ranges_asked() == []
    fetched(server, target, sha256=SHA256)
