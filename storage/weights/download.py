"""Downloads one file: whole and with the right digest, or not at all and with a reason.

huggingface_hub does the HTTP, for files of other servers too. Its `hf_hub_download` starts again
after an interruption, so the unfinished file is kept here, as `<file>.part`.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfFileMetadata, constants, get_hf_file_metadata
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from storage.atomic import make_folder, naming_disk_full, sync
from storage.errors import DiskFull, DownloadError
from storage.files import sha256_file
from storage.weights.folder import Basis

constants.HF_HUB_DISABLE_TELEMETRY = True
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another try


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """basis: what the digest was compared with."""

    sha256: str
    size: int
    basis: Basis


def download(
    url: str, target: Path, *, sha256: str = "", size: int | None = None, token: bool = False
) -> Downloaded:
    """Fetches the file to `target`, which must not exist; shows a progress bar on a terminal.

    sha256, size: as published, where known. token: send the user's Hugging Face token, if there is
    one. What came before an interruption is kept in `<target>.part`, and the next call resumes
    there if size and digest are known to check the result with.

    Raises DownloadError if the file cannot be had or is another one, DiskFull if there is no room.
    """
    headers = build_hf_headers(token=None if token else False, library_name="roboscape")
    headers["Accept-Encoding"] = "identity"  # ranges must be those of the file itself
    with _explained(url, target):
        offer = _look_up(url, headers)
    stated = offer.etag if offer.etag and re.fullmatch("[0-9a-f]{64}", offer.etag) else ""
    expected = sha256 or stated
    if why := _unacceptable(url, offer, stated, sha256, size):
        raise _failure(url, target, why)

    with _unfinished(target) as part:
        # Without a digest, nothing shows whether both halves are of the same file.
        if not expected or offer.size is None or part.tell() > offer.size:
            part.seek(0)
            part.truncate()
        _require_room(target, (offer.size or 0) - part.tell())
        with _explained(url, target):
            http_get(
                url,
                part,
                resume_size=part.tell(),
                headers=headers,
                expected_size=offer.size,
                displayed_filename=target.name,
            )
            part.flush()
        sync(_part(target))
        found, n_bytes = sha256_file(_part(target)), part.tell()
        if expected and found != expected:
            _part(target).unlink()
            why = f"the file has the SHA-256 {found}, expected {expected}; it was deleted"
            raise _failure(url, target, why)
        os.replace(_part(target), target)
        sync(target.parent)
    basis: Basis = "server" if stated else "first use"
    return Downloaded(sha256=found, size=n_bytes, basis="published" if sha256 else basis)


def _look_up(url: str, headers: dict[str, str]) -> HfFileMetadata:
    """Size and digest. Asks only a busy server again: without a network it fails at once."""
    try:
        return get_hf_file_metadata(url, token=False, headers=headers)
    except HfHubHTTPError as error:
        if error.response.status_code not in BUSY:
            raise
    return get_hf_file_metadata(url, token=False, headers=headers, retry_on_errors=True)


def _unacceptable(
    url: str, offer: HfFileMetadata, stated: str, sha256: str, size: int | None
) -> str:
    """Why this file must not be fetched; empty if it may be."""
    if url.startswith("https:") and not offer.location.startswith("https:"):
        return f"the server redirects to {offer.location}, without HTTPS"
    if sha256 and stated not in ("", sha256):
        return f"the server has a file with the SHA-256 {stated}, published is {sha256}"
    if size is not None and offer.size not in (None, size):
        return f"the server has a file of {offer.size} bytes, published is {size}"
    return ""


def _require_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DiskFull(
            f"{target.name} needs {needed / 1e6:.0f} MB more and {target.parent} has "
            f"{free / 1e6:.0f} MB free: free some space, or choose another folder, and try again"
        )


@contextmanager
def _unfinished(target: Path) -> Iterator[BinaryIO]:
    """The unfinished file, open at its end and locked; an empty one is deleted afterwards."""
    make_folder(target.parent)
    path = _part(target)
    with naming_disk_full(path), path.open("ab") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = path.exists()  # else the process that held the lock has just renamed it
        except BlockingIOError:
            ours = False
        if not ours:
            raise DownloadError(
                f"another process is fetching {target}: wait for it, then run the command again"
            )
        try:
            yield part
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


@contextmanager
def _explained(url: str, target: Path) -> Iterator[None]:
    """Turns what HTTP can end with into DownloadError."""
    host = urlsplit(url).netloc
    try:
        yield
    except HfHubHTTPError as error:
        why = f"{host} answers {error.response.status_code} ({error.response.reason_phrase})"
        if error.response.status_code in (401, 403):
            why += (
                ": accept the terms on its page in a browser, then log in with `hf auth login` or "
                "set HF_TOKEN"
            )
        raise _failure(url, target, why) from error
    except OfflineModeIsEnabled as error:
        raise _failure(url, target, "HF_HUB_OFFLINE is set") from error
    except httpx2.ConnectError as error:
        raise _failure(url, target, f"{host} cannot be reached: {error}") from error
    except (httpx2.HTTPError, OSError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        why = f"the connection to {host} broke: {error or type(error).__name__}"
        raise _failure(url, target, why) from error


def _failure(url: str, target: Path, why: str) -> DownloadError:
    part = _part(target)
    n_bytes = part.stat().st_size if part.exists() else 0
    kept = f" {n_bytes / 1e6:.1f} MB are kept for the next try." if n_bytes else ""
    return DownloadError(
        f"{url} could not be fetched: {why}.{kept} Try again later, or download it by hand, on "
        f"another machine if this one is offline, and put it at {target}"
    )


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")
