"""An HTTP server of one file, that can be told to misbehave in the ways in which downloads go
wrong.
"""

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """content, tag: the file and its ETag. Faults are used up in order, one a request for the file.

    cuts: after so many bytes of an answer the connection ends. refusals: an HTTP status in place of
    the file. linked: the SHA-256 that the hub states while it redirects /hub/... to /store/...
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.tag, self.linked = content, '"first"', ""
        self.ranges = self.lengths = True
        self.cuts: list[int] = []
        self.refusals: list[int] = []
        self.redirect_to = ""
        self.requests: list[tuple[str, str | None]] = []  # path, Range

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def file_server(content: bytes) -> Iterator[FileServer]:
    server = FileServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path.startswith("/hub/"):
            to = server.redirect_to or f"{server.root}/store/{self.path.rpartition('/')[2]}"
            tag = {"X-Linked-Etag": f'"{server.linked}"'} if server.linked else {}
            return self.head(http.client.FOUND, Location=to, Content_Length="0", **tag)
        if server.refusals:
            return self.head(server.refusals.pop(0), Content_Length="0", Retry_After="0")
        start = (
            int(match[1])
            if server.ranges and (match := re.fullmatch(r"bytes=(\d+)-", wanted or ""))
            else None
        )
        total, body = len(server.content), server.content[start or 0 :]
        if start is not None and start >= total:
            return self.head(416, Content_Range=f"bytes */{total}", Content_Length="0")
        headers = {"ETag": server.tag} if server.tag else {}
        if server.lengths:
            headers["Content-Length"] = str(len(body))
        if start is None:
            self.head(http.client.OK, **headers)
        else:
            self.head(
                http.client.PARTIAL_CONTENT,
                Content_Range=f"bytes {start}-{total - 1}/{total}",
                **headers,
            )
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
