"""An HTTP server of one file that answers as the hub does, and fails on demand."""

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import serving


class FileServer(ThreadingHTTPServer):
    """Every path has `content`. Paths below /hub/ redirect to another host, as the hub does for
    large files, and state `linked`, the SHA-256.

    tag: the ETag. Faults are used up in order, one a GET of the file: `cuts` (the connection ends
    after so many bytes) and `refusals` (an HTTP status instead of the file); `busy` ones are for
    HEAD.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.tag, self.linked = content, '"first"', ""
        self.ranges = self.lengths = True
        self.cuts: list[int] = []
        self.refusals: list[int] = []
        self.busy: list[int] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.headers: list[Message] = []  # of the requests

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges_asked(self) -> list[str | None]:
        """Of each GET of the file itself."""
        return [wanted for method, path, wanted in self.requests
                if method == "GET" and not path.startswith("/hub/")]  # fmt: skip


@contextmanager
def file_server(content: bytes) -> Iterator[FileServer]:
    with serving(FileServer(content)) as server:
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def note(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        self.server.headers.append(self.headers)

    def do_HEAD(self) -> None:
        self.note()
        if self.server.busy:
            return self.head(self.server.busy.pop(0), Content_Length="0", Retry_After="0")
        if self.path.startswith("/hub/"):
            return self.redirect()
        self.head(http.client.OK, **self.about(len(self.server.content)))

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        self.note()
        if self.path.startswith("/hub/"):
            return self.redirect()
        if server.refusals:
            return self.head(server.refusals.pop(0), Content_Length="0", Retry_After="0")
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "") if server.ranges else None
        start, total = int(match[1]) if match else 0, len(server.content)
        if match and start >= total:
            return self.head(416, Content_Range=f"bytes */{total}", Content_Length="0")
        body = server.content[start:]
        if match:
            where = f"bytes {start}-{total - 1}/{total}"
            self.head(http.client.PARTIAL_CONTENT, Content_Range=where, **self.about(len(body)))
        else:
            self.head(http.client.OK, **self.about(len(body)))
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def about(self, length: int) -> dict[str, str]:
        tag = {"ETag": self.server.tag} if self.server.tag else {}
        return tag | ({"Content-Length": str(length)} if self.server.lengths else {})

    def redirect(self) -> None:
        server = self.server
        stated = {"X-Linked-Etag": f'"{server.linked}"'} if server.linked else {}
        self.head(
            http.client.FOUND,
            Location=f"http://localhost:{server.server_port}/store/{self.path.rpartition('/')[2]}",
            X_Linked_Size=str(len(server.content)),
            X_Repo_Commit="0" * 40,
            Content_Length="0",
            **stated,
        )

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
