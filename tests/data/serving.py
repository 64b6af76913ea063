"""A real HTTP server on this machine that behaves badly on purpose, and records of files it serves."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sslood.data.sets.fetching.published import Published

BODY = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(BODY).hexdigest()
ANSWERS = {"missing": 404, "forbidden": 403, "gone": 410, "failing": 500}


class Handler(BaseHTTPRequestHandler):
    """The first word of the path says how to behave; `server.log` gets (path, headers) of every request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.log.append((self.path, self.headers))
        self.kind = self.path.split("/")[1]
        self.visits = sum(path == self.path for path, _ in self.server.log)
        if self.kind in ANSWERS:
            return self.send_error(ANSWERS[self.kind])
        if self.kind in ("busy", "patient") and self.visits <= 2:
            return self.empty(429, "Retry-After", "0" if self.kind == "busy" else "100000")
        if self.kind == "overloaded":
            return self.empty(429, "Retry-After", "0")
        if self.kind == "loop":
            return self.empty(302, "Location", self.path)
        if self.kind == "silent":
            return self.server.closing.wait(20)
        if self.kind == "endless":
            return self.endless()
        return self.file()

    def empty(self, status, header, value):
        self.send_response(status)
        self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def endless(self):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.closing.is_set():
                self.wfile.write(bytes(1 << 16))
        except ConnectionError:
            pass

    def file(self):
        """Serve a file with ranges.

        Kinds: broken drops the line halfway on the first visit, dead always; plain is broken and does no
        ranges; changed is broken and had another content on the first visit; short, long and liar lie about
        the length; labelled calls the file encoded.
        """
        body = self.server.bodies.get(self.path.rsplit("/", 1)[-1], BODY)
        body = bytes(len(body)) if self.kind == "changed" and self.visits == 1 else body
        start, asked = 0, self.headers.get("Range")
        if asked and self.kind != "plain":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return self.empty(
                416, "Content-Range", "bytes */9" if self.kind == "liar" else f"bytes */{len(body)}"
            )
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.kind == "labelled":
            self.send_header("Content-Encoding", "x-gzip")
        lie = {"short": -1000, "long": 1000, "liar": 1000}.get(self.kind, 0)
        self.send_header("Content-Length", str(len(body) - start + lie))
        self.end_headers()
        first = self.kind in ("broken", "plain", "changed") and self.visits == 1
        half = first or self.kind == "dead"
        self.wfile.write(body[start : len(body) // 2] if half else body[start:])
        self.close_connection = True

    def log_message(self, *args):
        """Stay silent."""


@contextmanager
def serving(context=None) -> Iterator[ThreadingHTTPServer]:
    """Run the server; `context` (ssl.SSLContext) makes it speak HTTPS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.log, httpd.bodies, httpd.closing = [], {}, threading.Event()
        httpd.address = f"http{'s' if context else ''}://127.0.0.1:{httpd.server_port}"
        httpd.handle_error = lambda *args: None  # clients that hang up are the point of many tests
        if context:
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield httpd
        finally:
            httpd.closing.set()
            httpd.shutdown()
            thread.join()


def entry(*sources: str, name: str = "images.bin", md5: str = MD5, **more) -> tuple[str, Published]:
    """Return the arguments of `locate` for a file of the set made_up."""
    file = Published(name=name, sources=sources, md5=md5, **more)
    return "made_up", file
