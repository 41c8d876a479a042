"""A hub on localhost: just enough of its protocol for huggingface_hub's snapshot_download."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Serves the folders ``org/name`` below ``root``.

    Attributes:
        requested: (method, path in repository, Range header) of every request for a file.
        cut: name of a file -> bytes after which its *first* download is cut off.
        refused: answer everything with this status, when set.
    """

    root: Path
    requested: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    refused: int | None = None
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.hub.refused is not None:
            return self._send(self.hub.refused, b"{}", body=body)
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self._info(match[1], body=body)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            return self._tree(match[1], body=body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(match[1], match[2], body=body)
        return self._send(404, b"{}", body=body)

    def _files(self, repo: str) -> list[Path]:
        return sorted(path for path in (self.hub.root / repo).rglob("*") if path.is_file())

    def _info(self, repo: str, *, body: bool) -> None:
        names = [str(f.relative_to(self.hub.root / repo)) for f in self._files(repo)]
        if not names:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        return self._send(200, json.dumps(info).encode(), body=body)

    def _tree(self, repo: str, *, body: bool) -> None:
        entries = [
            {
                "type": "file",
                "path": str(f.relative_to(self.hub.root / repo)),
                "size": f.stat().st_size,
                "oid": "0" * 40,
            }
            for f in self._files(repo)
        ]
        self._send(200, json.dumps(entries).encode(), body=body)

    def _file(self, repo: str, name: str, *, body: bool) -> None:
        span = self.headers.get("Range")
        self.hub.requested.append((self.command, name, span))
        data = (self.hub.root / repo / name).read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        status, start = 200, 0
        if span:
            start = int(span.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status = 206
        limit = self.hub.cut.pop(name, None) if body else None
        self._send(status, data[start:], headers, body=body, limit=limit)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool,
        limit: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data if limit is None else data[:limit])
        if limit is not None:
            self.close_connection = True


@contextmanager
def serve(root: Path) -> Generator[Hub]:
    """Serve ``root`` on a free port."""
    hub = Hub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
