"""An S3 server in memory, as far as the stores use S3: whole and ranged reads, exclusive and
multipart writes, lists.

It tests the client over HTTP: which requests it sends, and what it does when an answer is lost.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from serving import serving


class S3Server(ThreadingHTTPServer):
    """objects: by `bucket/key`. lose_answers: so many exclusive writes are carried out and answered
    with status 500.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.lose_answers = 0
        self.page = 1000  # keys in one answer to a list

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    with serving(S3Server()) as server:
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # head and body of an answer in one packet, or each waits 40 ms for the last one's receipt

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def parts(self) -> tuple[str, dict[str, str], bytes]:
        """`bucket/key`, the query and the body of the request."""
        url = urlsplit(self.path)
        query = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(f"{self.command} {unquote(url.path)}")
        return unquote(url.path).strip("/"), query, body

    def do_PUT(self) -> None:
        key, query, body = self.parts()
        with self.server.lock:
            if "uploadId" in query:
                self.server.uploads[query["uploadId"]][int(query["partNumber"])] = body
                return self.answer(200, ETag='"part"')
            exclusive = self.headers.get("If-None-Match") == "*"
            if exclusive and key in self.server.objects:
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self.server.objects[key] = body
            if exclusive and self.server.lose_answers:
                self.server.lose_answers -= 1
                return self.answer(500)
            return self.answer(200, ETag='"whole"')

    def do_POST(self) -> None:
        key, query, body = self.parts()
        with self.server.lock:
            if "uploads" in query:
                upload = str(len(self.server.uploads))
                self.server.uploads[upload] = {}
                return self.answer(
                    200, f"<R><Bucket/><Key/><UploadId>{upload}</UploadId></R>".encode()
                )
            if "uploadId" in query:
                chunks = self.server.uploads.pop(query["uploadId"])
                self.server.objects[key] = b"".join(chunk for _, chunk in sorted(chunks.items()))
                tag = "CompleteMultipartUploadResult"
                return self.answer(200, f"<{tag}><ETag>whole</ETag></{tag}>".encode())
            names = [unescape(name) for name in re.findall("<Key>(.*?)</Key>", body.decode())]
            for name in names:
                self.server.objects.pop(f"{key}/{name}", None)
        deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def do_DELETE(self) -> None:
        key, query, _ = self.parts()
        with self.server.lock:
            if "uploadId" in query:
                self.server.uploads.pop(query["uploadId"], None)
            else:
                self.server.objects.pop(key, None)
        self.answer(204)

    def do_GET(self) -> None:
        key, query, _ = self.parts()
        with self.server.lock:
            if "list-type" in query:
                return self.answer(200, self.listed(key, query))
            data = self.server.objects.get(key)
        stamp = {"ETag": '"whole"', "Last_Modified": formatdate(usegmt=True)}
        if data is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(200, data, **stamp)
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            return self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        return self.answer(
            206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", **stamp
        )

    do_HEAD = do_GET

    def listed(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = f"{bucket}/{query.get('prefix', '')}", query.get("delimiter")
        found = [key for key in sorted(self.server.objects) if key.startswith(prefix)]
        start = int(query.get("continuation-token", 0))
        rest, found = found[start + self.server.page :], found[start : start + self.server.page]
        contents, folders = "", {}
        for key in found:
            inside, cut, _ = key[len(prefix) :].partition(delimiter or "\0")
            name = escape(key[len(bucket) + 1 :])
            if cut:
                folders[escape(prefix[len(bucket) + 1 :] + inside + cut)] = None
                continue
            contents += (
                f"<Contents><Key>{name}</Key><Size>{len(self.server.objects[key])}</Size><ETag>whole</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        contents += "".join(
            f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders
        )
        if rest:
            contents += f"<NextContinuationToken>{start + self.server.page}</NextContinuationToken>"
        more = "true" if rest else "false"
        contents = f"<IsTruncated>{more}</IsTruncated>{contents}"
        return f"<ListBucketResult>{contents}</ListBucketResult>".encode()
