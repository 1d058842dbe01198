"""One file over HTTPS: an address in, a whole file with a known digest out, or nothing and a
reason.

Bytes go to `<target>.part`, and what identifies the file on the server to `<target>.part.json`; so
a download that was cut off, by the line or by Ctrl-C, goes on where it stopped, unless the file on
the server is another one by then.
"""

import fcntl
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from storage.atomic import explain_disk_full, make_folder, sync
from storage.errors import DiskFull, DownloadError
from storage.files import LocalFiles, sha256_file

PIECE = 1 << 20
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may be over soon
LONGEST_WAIT_S = 60.0
AGENT = "roboscape/0.1"


OnProgress = Callable[
    [int, int | None], None
]  # bytes that are there, and of how many, where the server says so


@dataclass(frozen=True, kw_only=True)
class Patience:
    """tries: in a row, without a byte in between. Waits double from `first_wait_s`, or are what the
    server asks for.
    """

    tries: int = 5
    first_wait_s: float = 1.0
    silence_s: float = 30.0  # without a byte, after which a connection counts as dead


PATIENT = Patience()


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The file that the server has. tag: changes with its content; sha256: where the server states
    it, else empty.
    """

    tag: str
    size: int | None
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """compared_with: where the digest came from that the file's own was found equal to."""

    sha256: str
    size: int
    compared_with: Literal["caller", "server", "nothing"]


def download(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    size: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    patience: Patience = PATIENT,
) -> Downloaded:
    """Fetches the file to `target`, which must not exist. sha256, size: what the file must have,
    where known.

    Raises DownloadError if it cannot be had or is another file, DiskFull if there is no room. In
    both cases `target` is not there; what was received stays beside it for the next try, unless it
    was found to be wrong.
    """
    make_folder(target.parent)
    with _partial(target) as part:
        fetch = _Fetch(url, target, part, sha256, size, on_progress, patience)
        offer = fetch.whole()
        found = sha256_file(fetch.path)
        expected = sha256 or offer.sha256
        if expected and found != expected:
            fetch.restart()
            whose = "published" if sha256 else "stated by the server"
            raise fetch.failure(
                f"the file that came has the SHA-256 {found}, {whose} is {expected}; it was deleted"
            )
        n_bytes = fetch.path.stat().st_size
        os.fsync(part.fileno())
        os.replace(fetch.path, target)
        fetch.note.unlink(missing_ok=True)
        sync(target.parent)
    return Downloaded(
        sha256=found,
        size=n_bytes,
        compared_with="caller" if sha256 else "server" if expected else "nothing",
    )


class _Passing(Exception):
    """A fault that may be gone on the next try. wait_s: for how long the server asks us to wait, or
    0.
    """

    def __init__(self, why: str, wait_s: float = 0.0):
        super().__init__(why)
        self.why, self.wait_s = why, wait_s


@dataclass
class _Fetch:
    """One file on its way: `part` holds what has come of it."""

    url: str
    target: Path
    part: FileIO
    sha256: str
    size: int | None
    on_progress: OnProgress
    patience: Patience
    path: Path = field(init=False)
    note: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path = _part_path(self.target)
        self.note = self.path.with_name(self.path.name + ".json")

    def whole(self) -> Offer:
        """Tries until all bytes are there."""
        failures = 0
        while True:
            before = self.received
            try:
                return self.attempt()
            except _Passing as fault:
                failures = 1 if self.received > before else failures + 1
                if failures >= self.patience.tries:
                    raise self.failure(fault.why) from fault
                time.sleep(
                    min(
                        fault.wait_s or self.patience.first_wait_s * 2 ** (failures - 1),
                        LONGEST_WAIT_S,
                    )
                )

    @property
    def received(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def attempt(self) -> Offer:
        """One connection, from where the last one ended."""
        begun = self.begun()
        if begun is None:
            self.restart()
        start = self.received
        if begun and begun.size == start:
            return begun  # killed between the last byte and the check
        with self.answer(start) as (response, offer):
            if (
                start and response.status == http.client.OK
            ):  # a server without ranges sends all of it again
                self.restart()
            elif start and (offer != begun or not _continues(response, start)):
                self.restart()
                raise _Passing("the file on the server changed while it was fetched")
            self.require(offer)
            LocalFiles(str(self.note.parent)).write(
                self.note.name, [json.dumps(asdict(offer)).encode()]
            )
            self.receive(response, offer)
        return offer

    def begun(self) -> Offer | None:
        """What the bytes that are there belong to; None where they are none, or cannot be told from
        another file's.
        """
        try:
            offer = Offer(**json.loads(self.note.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return offer if offer.tag else None

    def restart(self) -> None:
        self.part.seek(0)
        self.part.truncate()
        self.note.unlink(missing_ok=True)

    def require(self, offer: Offer) -> None:
        """Refuses another file before it is fetched, and one for which there is no room."""
        if self.sha256 and offer.sha256 not in ("", self.sha256):
            raise self.failure(
                f"the server has a file with the SHA-256 {offer.sha256}, published is {self.sha256}"
            )
        if self.size is not None and offer.size not in (None, self.size):
            raise self.failure(
                f"the server has a file of {offer.size} bytes, published is {self.size}"
            )
        needed, free = (offer.size or 0) - self.received, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DiskFull(
                f"{self.target.name} needs {needed / 1e6:.0f} MB more and {self.target.parent} has {free / 1e6:.0f} MB "
                "free: make room there, or choose another folder, and fetch it again"
            )

    def receive(self, response: http.client.HTTPResponse, offer: Offer) -> None:
        done = self.received
        self.on_progress(done, offer.size)
        while piece := self.read(response):
            self.write(piece)
            done += len(piece)
            self.on_progress(done, offer.size)
        if offer.size is not None and done < offer.size:
            raise _Passing(f"the connection ended after {done} of {offer.size} bytes")

    def read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"the connection broke: {error or type(error).__name__}") from error

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        with explain_disk_full(self.path):
            while len(view):
                view = view[self.part.write(view) :]

    @contextmanager
    def answer(self, start: int) -> Iterator[tuple[http.client.HTTPResponse, Offer]]:
        """Asks for the file from byte `start`."""
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"} | (
            {"Range": f"bytes={start}-"} if start else {}
        )
        hops = _Redirects()
        try:
            response = urllib.request.build_opener(hops).open(
                urllib.request.Request(self.url, headers=headers), timeout=self.patience.silence_s
            )
        except urllib.error.HTTPError as error:
            with error:
                raise self.refused(error) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise self.failure(
                    f"{self.host}'s certificate is not trusted here: {error.reason}"
                ) from error
            raise _Passing(f"{self.host} cannot be reached: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(
                f"{self.host} does not answer: {error or type(error).__name__}"
            ) from error
        with response:
            yield response, _offer(response, hops)

    def refused(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means here."""
        why = f"{self.host} answers {error.code} ({error.reason})"
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.restart()
            return _Passing(f"{why}: the file on the server is shorter than what had come of it")
        if error.code in PASSING:
            return _Passing(
                why,
                float(wait) if (wait := error.headers.get("Retry-After", "")).isdigit() else 0.0,
            )
        if error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            why += ": it wants a login or the acceptance of terms, which only a browser can give"
        return self.failure(why)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def failure(self, why: str) -> DownloadError:
        kept = f" {self.received / 1e6:.1f} MB are kept for the next try." if self.received else ""
        return DownloadError(
            f"{self.url} could not be fetched: {why}.{kept} Try again later, or download it by hand, on another "
            f"machine if this one is offline, and put it at {self.target}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as usual, but from HTTPS to HTTPS only, and keeps what the hub says on the
    way.

    The hub redirects to a store whose own ETag is no SHA-256, though it may look like one; it
    states the file's digest in the answer that redirects.
    """

    def __init__(self) -> None:
        self.n = 0
        self.linked_tag = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(
                newurl, code, "redirected to an address without HTTPS", headers, fp
            )
        self.n += 1
        self.linked_tag = headers.get("X-Linked-Etag") or self.linked_tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _offer(response: http.client.HTTPResponse, hops: _Redirects) -> Offer:
    headers = response.headers
    own = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    tag = _bare(hops.linked_tag or own or headers.get("Last-Modified") or "")
    stated = _bare(hops.linked_tag or ("" if hops.n else own))
    length = headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
        total = int(found[1]) if found else None
    return Offer(tag=tag, size=total, sha256=stated if re.fullmatch("[0-9a-f]{64}", stated) else "")


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _bare(tag: str) -> str:
    return tag.removeprefix("W/").strip('"')


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@contextmanager
def _partial(target: Path) -> Iterator[FileIO]:
    """The file that the bytes go to, unbuffered and for this process alone."""
    path = _part_path(target)
    with FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            # Held by another process, or already renamed by it: then what we opened is its finished
            # file
            ours = False
        if not ours:
            raise DownloadError(
                f"{target} is being fetched by another process: wait for it, then look again"
            )
        yield file
