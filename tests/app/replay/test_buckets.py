"""Logs in a bucket, by Arrow's own clients of S3 and GCS and servers that know as much of them as a replay asks for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from app.errors import ConfigError
from app.replay.files import find, read_rows, shown_name

KEPT = {"logs/2026/b 100%.jsonl": b'{"prompt": "b"}\n', "logs/a.jsonl": b'{"prompt": "a"}\n', "logs/notes.txt": b"-"}


class Bucket(BaseHTTPRequestHandler):
    """Lists and gives what is kept to whoever has the key."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked, key = parse_qs(url.query), unquote(url.path).removeprefix("/bucket").removeprefix("/")
        if "Credential=key/" not in self.headers.get("Authorization", ""):
            self._answer(403)
        elif "list-type" in asked:
            self._answer(200, self._listed(asked.get("prefix", [""])[0]))
        elif key not in KEPT:
            self._answer(404)
        else:
            first, last = map(int, re.findall(r"\d+", self.headers.get("Range", f"0-{len(KEPT[key])}")))
            self._answer(206 if "Range" in self.headers else 200, KEPT[key][first : last + 1])

    def _listed(self, prefix: str) -> bytes:
        sizes = {key: len(content) for key, content in sorted(KEPT.items()) if key.startswith(prefix)}
        date = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        files = [
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>{date}</Contents>" for key, size in sizes.items()
        ]
        head = f"<IsTruncated>false</IsTruncated><KeyCount>{len(files)}</KeyCount>"
        return f"<ListBucketResult>{head}{''.join(files)}</ListBucketResult>".encode()

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


class Storage(Bucket):
    """The same of Google's, by its JSON API, for everybody."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        name = unquote(url.path.removeprefix("/storage/v1/b/bucket/o").removeprefix("/"))
        prefix = asked.get("prefix", [""])[0]
        if not name:
            items = [self._described(key) for key in sorted(KEPT) if key.startswith(prefix)]
            self._answer(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif name not in KEPT:
            self._answer(404)
        else:
            self._answer(200, KEPT[name] if "alt" in asked else json.dumps(self._described(name)).encode())

    @staticmethod
    def _described(name: str) -> dict[str, str]:
        return {"kind": "storage#object", "bucket": "bucket", "name": name, "size": str(len(KEPT[name]))}


@contextmanager
def serving(handler: type[Bucket]) -> Iterator[int]:
    """Serve a bucket on a port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the bucket, and return what a URL says of where it is."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving(Bucket) as port:
        yield f"?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:{port}"


def test_a_folder_of_a_bucket_is_read_with_the_key_of_its_url(options: str) -> None:
    found = find([f"s3://key:secret@bucket/logs{options}"])
    assert [row for file in found for _, row in read_rows(file)] == [{"prompt": "b"}, {"prompt": "a"}]


def test_what_is_not_in_the_bucket_is_said_without_the_key(options: str) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read `s3://bucket/no.jsonl`: there is no such file"):
        find([f"s3://key:secret@bucket/no.jsonl{options}"])


def test_a_folder_of_google_s_storage_is_read() -> None:
    with serving(Storage) as port:
        where = f"?scheme=http&endpoint_override=127.0.0.1:{port}&retry_limit_seconds=5"
        found = find([f"gs://anonymous@bucket/logs{where}"])
        assert [row for file in found for _, row in read_rows(file)] == [{"prompt": "b"}, {"prompt": "a"}]
        with pytest.raises(ConfigError, match=r"^cannot read `gs://bucket/no.jsonl`: there is no such file"):
            find([f"gs://anonymous@bucket/no.jsonl{where}"])


def test_no_secret_of_a_url_is_shown() -> None:
    assert shown_name("https://me:word@host/log.jsonl?signature=x") == "https://host/log.jsonl"
    assert shown_name("log 100%?.jsonl") == "log 100%?.jsonl"
