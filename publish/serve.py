"""Serve the built site as GitHub Pages does: below /recdqn/, compressed, cached, with its 404 page.

Run ``python publish/serve.py [SITE] [PORT]`` to view a site as the tests do.
"""

import gzip
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import unquote, urlsplit

BASE = "/recdqn/"  # where GitHub Pages puts the site of a repository
# Types that guess_type may not know; browsers refuse scripts and style sheets of a wrong type.
TYPES = {
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".ipynb": "application/json",
}
COMPRESSED = ("text/", "application/json", "application/xml", "image/svg+xml")


@lru_cache(maxsize=512)
def compressed(path: Path, _mtime: int) -> bytes:
    """Return a file's gzipped content, cached until the file changes."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)


def content_type(path: Path) -> str:
    """Return a file's Content-Type header."""
    kind = TYPES.get(path.suffix) or guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith(COMPRESSED) else kind


class Handler(BaseHTTPRequestHandler):
    """Answer GET and HEAD from the folder `site`."""

    protocol_version = "HTTP/1.1"  # connections stay open
    site: Path

    def do_GET(self) -> None:
        """Send a file, the 404 page, or a redirect to the site."""
        path = unquote(urlsplit(self.path).path)
        if path == BASE.rstrip("/"):
            self.answer(301, {"Location": BASE}, b"")
            return
        file = (self.site / path.removeprefix(BASE)).resolve()
        if file.is_dir():
            file /= "index.html"
        status = 200
        if not (path.startswith(BASE) and file.is_relative_to(self.site) and file.is_file()):
            status, file = 404, self.site / "404.html"
        if not file.is_file():
            self.answer(404, {"Content-Type": "text/plain"}, b"not found\n")
            return
        headers = {"Content-Type": content_type(file), "Cache-Control": "max-age=600"}
        if headers["Content-Type"].startswith(COMPRESSED) and "gzip" in self.headers.get(
            "Accept-Encoding", ""
        ):
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
            body = compressed(file, file.stat().st_mtime_ns)
        else:
            body = file.read_bytes()
        self.answer(status, headers, body)

    do_HEAD = do_GET

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send the status, headers and, unless the method is HEAD, the body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing; the tests see failed requests in the browser."""


class Server(ThreadingHTTPServer):
    """A server with daemon threads that ignores closed connections."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a connection that the browser closed early."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_server(site: Path, port: int = 0) -> Server:
    """Return a server for a folder; port 0 means any free port."""
    handler = type("SiteHandler", (Handler,), {"site": site.resolve()})
    return Server(("127.0.0.1", port), handler)


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Serve a folder inside the context; yields the site's address, ending in a slash."""
    with make_server(site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}{BASE}"
        finally:
            server.shutdown()


if __name__ == "__main__":
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html")
    if not (site / "index.html").is_file():
        sys.exit(f"no index.html in {site}: build the book first, or name the folder of a built site")
    with make_server(site, int(sys.argv[2]) if len(sys.argv) > 2 else 8000) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}{BASE}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
