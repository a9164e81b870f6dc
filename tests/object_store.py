"""A real S3 server (moto's, in a process of its own) behind a proxy that counts requests and misbehaves when asked."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    # an answer that takes longer than this is given up and asked for again; else the tests would take long
    "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": 2}}),
}
_SIGNED = "AWS4-HMAC-SHA256 Credential=nobody/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


@dataclass(frozen=True)
class Trouble:
    """What the proxy does to requests, in shares of them.

    Attributes:
        failing: answered with 500 or 503, and not passed on.
        unheard: done, but answered with 500 all the same.
        dropped: the connection breaks without an answer.
        slow: answered after a fifth of a second.
        hanging: answered after more time than clients wait.
        refusing: methods that are answered with 403 Access Denied.
        where: what the path of a request must hold to be troubled.
    """

    failing: float = 0.0
    unheard: float = 0.0
    dropped: float = 0.0
    slow: float = 0.0
    hanging: float = 0.0
    refusing: tuple[str, ...] = ()
    where: str = ""


class ObjectStore:
    """The server and the proxy before it.

    Attributes:
        url: of the proxy, for clients.
        requests: counted by method; listings are ``LIST``.
        paths: method and path of each request, in order.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self.trouble = Trouble()
        self.requests: Counter[str] = Counter()
        self.paths: list[tuple[str, str]] = []
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._proxy.daemon_threads = True
        self._proxy.store = self
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    @contextmanager
    def troubled(self, **shares: Any) -> Iterator[None]:
        """The proxy misbehaves for a while, by a pattern that is the same each time."""
        self._random = random.Random(0)
        self.trouble = Trouble(**shares)
        try:
            yield
        finally:
            self.trouble = Trouble()

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        assert self.ask("PUT", f"/{name}")[0] == 200
        return name

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Asks the server itself; gives status and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Host": "s3.amazonaws.com", "Authorization": _SIGNED})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of the objects there are."""
        found: list[str] = []
        after = ""
        while True:
            _, content = self.ask("GET", f"/{bucket}?list-type=2&prefix={prefix}&start-after={after}")
            keys = re.findall(r"<Key>(.*?)</Key>", content.decode())
            found += keys
            if "<IsTruncated>true" not in content.decode():
                return found
            after = keys[-1]

    def content(self, bucket: str, key: str) -> bytes:
        """An object's content."""
        status, content = self.ask("GET", f"/{bucket}/{key}")
        assert status == 200, key
        return content

    def count(self, method: str, path: str) -> str | None:
        """Notes a request; gives what is to be done to it."""
        query = path.partition("?")[2]
        kind = "LIST" if method == "GET" and "list-type=2" in query else method
        with self._lock:
            self.requests[kind] += 1
            self.paths.append((kind, path.partition("?")[0]))
            trouble = self.trouble
            if trouble.where not in path:
                return None
            if kind in trouble.refusing:
                return "refusing"
            drawn = self._random.random()
        for what in ("failing", "unheard", "dropped", "slow", "hanging"):
            drawn -= getattr(trouble, what)
            if drawn < 0:
                return what
        return None


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on to the server, or does to them what the store's trouble says."""

    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = self.server.store.count(self.command, self.path)
        if what == "failing":
            self._answer(503 if len(self.path) % 2 else 500, {}, b"<Error><Code>InternalError</Code></Error>")
        elif what == "refusing":
            self._answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        elif what == "dropped":
            self.close_connection = True
        else:
            self._ask_server(body, what)

    def _ask_server(self, body: bytes, what: str | None) -> None:
        time.sleep({"slow": 0.2, "hanging": 2.5}.get(what, 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.store.port, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if what == "unheard":
            self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
        else:
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(answer.status, dict(answer.getheaders()), content, length)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except OSError:  # the client has given up
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - the server calls them so

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """An object store for as long as the context lasts; this process's environment leads to it."""
    with subprocess.Popen([sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True) as server:
        before = dict(os.environ)
        try:
            store = ObjectStore(int(server.stdout.readline()))
            os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=store.url)
            yield store
            store.close()
        finally:
            os.environ.clear()
            os.environ.update(before)
            server.kill()


if __name__ == "__main__":
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    http_server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    print(http_server.server_port, flush=True)
    http_server.serve_forever()
