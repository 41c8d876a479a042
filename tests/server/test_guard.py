"""Keys, host names, other sites, sizes and pace: what comes in, and what never goes out."""

from __future__ import annotations

import base64
import errno
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from tests.server.live_server import Live, live, png

from recurvid.errors import LimitError
from recurvid.jobs.access import Access
from recurvid.jobs.limits import Limits
from recurvid.server.guard import given_key, host_name
from recurvid.server.problems import without_paths

KEY = "a-key-of-the-test"
GOOD = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home"), Access.of(KEY)) as server:
        yield server


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_every_address_needs_the_key(keyed: Live):
    description = keyed.client.get("/openapi.json", headers=GOOD).json()
    asked = [
        (method.upper(), path.replace("{id}", f"video_{'0' * 32}"))
        for path, methods in description["paths"].items()
        for method in methods
        if path != "/healthz"
    ]
    asked += [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/nothing"),
              ("GET", "/healthz/"), ("GET", "//healthz"), ("POST", "/healthz/../docs"),
              ("OPTIONS", "/api/jobs"), ("HEAD", "/docs")]  # fmt: skip
    assert len(asked) > 30
    for method, path in asked:
        answer = keyed.client.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Basic ")
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert keyed.client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong-key-here"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": KEY},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()},
        {"X-API-Key": KEY},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_wrong_keys(keyed: Live, headers: dict[str, str]):
    assert keyed.client.get("/api/queue", headers=headers).status_code == 401
    assert keyed.client.get(f"/api/queue?key={KEY}&api_key={KEY}").status_code == 401


def test_right_keys(keyed: Live):
    for headers in (GOOD, basic(f"anybody:{KEY}"), basic(f":{KEY}"),
                    {"authorization": f"bearer  {KEY}"}):  # fmt: skip
        assert keyed.client.get("/api/queue", headers=headers).status_code == 200
        assert keyed.client.get("/docs", headers=headers).status_code == 200


def test_keys_out_of_headers():
    assert given_key(Headers({"authorization": "Bearer k"})) == "k"
    assert given_key(Headers(basic("u:a:b"))) == "a:b"
    assert given_key(Headers({})) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "0.0.0.0",
             "[::2]", "127.0.0.1@evil.example"]
)  # fmt: skip
def test_other_names_of_this_machine_are_refused(server: Live, host: str):
    for path in ("/healthz", "/api/jobs", "/docs"):
        answer = server.client.get(path, headers={"Host": host})
        assert answer.status_code in (400, 403), answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:7861"])
def test_names_of_loopback_are_taken(server: Live, host: str):
    assert server.client.get("/healthz", headers={"Host": host}).status_code == 200


def test_host_names():
    assert host_name(" Example.com.:80") == "example.com"
    assert host_name("[::1]:80") == "[::1]"


def test_any_name_where_that_is_wanted(tmp_path: Path):
    with live(tmp_path / "home", Access.of(KEY), hosts=None) as server:
        headers = {**GOOD, "Host": "videos.example"}
        assert server.client.get("/api/queue", headers=headers).status_code == 200


def test_other_sites_are_refused(own_server: Live):
    picture = {"picture": ("a.png", png())}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"},
                    {"Origin": own_server.address + ".evil.example"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        answer = own_server.client.post("/api/jobs", files=picture, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
    assert own_server.store.list() == []
    for headers in ({"Origin": own_server.address}, {"Sec-Fetch-Site": "same-origin"}):
        answer = own_server.client.post("/api/jobs", files=picture, headers=headers)
        assert answer.status_code == 201


def test_no_cross_origin_sharing(server: Live):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        server.client.options("/api/jobs", headers=asked),
        server.client.get("/api/jobs", headers={"Origin": "https://evil.example"}),
        server.client.get("/api/jobs", headers={"Origin": server.address}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_headers_of_every_answer(keyed: Live):
    for path, headers in (("/docs", GOOD), ("/healthz", {}), ("/nothing", GOOD), ("/x", {})):
        answer = keyed.client.get(path, headers=headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def connected(server: Live, wait: float = 60.0) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=wait)


def raw(server: Live, head: str, body: bytes = b"", wait: float = 60.0) -> bytes:
    """Bytes as they are, and all that comes back until the server closes or ``wait`` is over."""
    with connected(server, wait) as line:
        line.sendall(head.replace("\n", "\r\n").encode("latin-1") + body)
        got = b""
        try:
            while piece := line.recv(65536):
                got += piece
        except TimeoutError:
            pass
    return got


HEAD = "POST /api/jobs HTTP/1.1\nHost: 127.0.0.1\nContent-Type: multipart/form-data; boundary=x\n"


def test_a_large_body_is_refused_before_it_is_read(tmp_path: Path):
    with live(tmp_path / "home", limits=Limits(upload_bytes=1000)) as server:
        most = 2 * 1000 + 1_000_000
        got = raw(server, f"{HEAD}Content-Length: {most + 1}\n\n")
        assert got.startswith(b"HTTP/1.1 413 ")
        for length in ("9" * 30, "-1", "1e3", "0x10"):
            got = raw(server, f"{HEAD}Content-Length: {length}\n\n", wait=30)
            assert got[9:12] in (b"413", b"400"), got[:100]
        for path in ("/api/jobs/x/move", "/nothing"):
            got = raw(server, f"POST {path} HTTP/1.1\nHost: localhost\nContent-Length: 1000001\n\n")
            assert got.startswith(b"HTTP/1.1 413 ")


def test_a_large_body_without_a_length_is_cut(tmp_path: Path):
    with live(tmp_path / "home", limits=Limits(upload_bytes=1000)) as server:

        def endless() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield b"y" * 100_000

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        try:
            answer = server.client.post("/api/jobs", content=endless(), headers=headers)
        except httpx.WriteError:  # the server hung up while we were still talking
            return
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large")


def drip(line: socket.socket) -> None:
    """Ten bytes a second, for ten seconds."""
    for _ in range(100):
        line.sendall(b"\r")
        time.sleep(0.1)


def test_a_client_that_goes_away_is_no_fault(own_server: Live, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        with connected(own_server) as line:
            line.sendall(f"{HEAD}Content-Length: 1000\n\n--x".replace("\n", "\r\n").encode())
            until = time.monotonic() + 30
            while not own_server.service.uploads and time.monotonic() < until:
                time.sleep(0.02)
            assert own_server.service.uploads
        while own_server.service.uploads and time.monotonic() < until:
            time.sleep(0.02)
        assert not own_server.service.uploads
        while not [r for r in caplog.records if r.message == "request"]:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert [r.message for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_a_slow_body_is_cut(tmp_path: Path):
    with live(tmp_path / "home", grace_seconds=1.0, pace=1e6) as server:
        began = time.monotonic()
        got = raw(server, f"{HEAD}Content-Length: 1000\n\n", b"--x")
        assert got.startswith(b"HTTP/1.1 408 "), got[:200]
        assert 0.9 < time.monotonic() - began < 50

        began = time.monotonic()  # and one that never stops, a byte at a time
        with connected(server) as line:
            line.sendall(f"{HEAD}Content-Length: 1000\n\n--x".replace("\n", "\r\n").encode())
            with pytest.raises(OSError, match=r"reset|pipe"):
                drip(line)
        assert time.monotonic() - began < 50
        assert server.client.post("/api/jobs", files={"picture": ("a", png())}).status_code == 201


def test_a_body_that_is_not_read_ends_the_connection(server: Live):
    began = time.monotonic()
    got = raw(server, f"{HEAD}Content-Length: 100000\n\n", b"no boundary")
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in got
    assert time.monotonic() - began < 12  # and not by somebody's patience


def test_slow_headers_are_cut(tmp_path: Path):
    with live(tmp_path / "home", header_seconds=0.5) as server:
        for head in ("", "GET /healthz HTTP/1.1\nHost: loc"):
            began = time.monotonic()
            assert raw(server, head) == b""
            assert 0.4 < time.monotonic() - began < 50
        with connected(server) as line:  # the second request of a connection as well
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.2)
            began = time.monotonic()
            line.sendall(b"GET /heal")
            while line.recv(65536):
                pass
            assert 0.4 < time.monotonic() - began < 50
        id = server.add().id  # an answer that takes long is not a slow request
        with server.client.stream("GET", f"/api/jobs/{id}/events") as answer:
            time.sleep(1.5)
            server.finish(server.claim())
            assert "finished" in answer.read().decode()


MALFORMED = [
    b"",
    b"--x",
    b"--x\r\n",
    b"--y\r\nContent-Disposition: form-data; name=picture\r\n\r\nz\r\n--y--\r\n",
    b"--x\r\n\r\nno headers\r\n--x--\r\n",
    b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n",
    b"--x\r\nContent-Disposition: form-data; name=picture; filename=a\r\n\r\nnever ends",
    b"--x\r\nContent-Disposition: form-data; name=\xff\r\n\r\nz\r\n--x--\r\n",
    b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\nz\r\n--x--\r\n",
    b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\nz\r\n--x--\r\n",
    b"--x\r\nContent-Disposition: form-data; name=title\r\n\r\n"
    + b"z" * 300_000
    + b"\r\n--x--\r\n",
    (b"--x\r\nContent-Disposition: form-data; name=title\r\n\r\nz\r\n" * 200) + b"--x--\r\n",
    (b"--x\r\nContent-Disposition: form-data; name=p; filename=a\r\n\r\nz\r\n" * 9) + b"--x--\r\n",
    b"\x00" * 1000,
    b"--x--\r\n" * 1000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("path", ["/api/jobs", "/v1/videos"])
def test_malformed_forms(server: Live, path: str, body: bytes):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = server.client.post(path, content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain", "",
             "application/json", "application/x-www-form-urlencoded",
             "multipart/form-data; boundary=" + "x" * 5000, "multipart/form-data; boundary=\xe9",
             "multipart/form-data; boundary=x; charset=none-such"]
)  # fmt: skip
def test_other_kinds_of_bodies(server: Live, kind: str):
    for path in ("/api/jobs", "/v1/videos"):
        headers = {b"Content-Type": kind.encode("latin-1")}
        answer = server.client.post(path, content=b"--x\r\n{}", headers=headers)
        assert answer.status_code in (400, 415), answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", ["", "{", "[]", "1", "[" * 200_000, '{"a":' * 50_000, "NaN",
                                  '{"before": "\\ud800"}', '{"before": 1}', '{"after": null}',
                                  '{"request": {"seed": ' + "9" * 5000 + "}}"])  # fmt: skip
def test_broken_json(server: Live, body: str):
    id = server.add().id
    headers = {"Content-Type": "application/json"}
    for method, path in (("POST", f"/api/jobs/{id}/move"), ("PUT", f"/api/jobs/{id}")):
        answer = server.client.request(method, path, content=body, headers=headers)
        assert answer.status_code == 400, answer.text
    videos = server.client.post("/v1/videos", content=body, headers=headers)
    assert videos.status_code == 400


def test_an_unforeseen_error_says_nothing(own_server: Live, monkeypatch: pytest.MonkeyPatch):
    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret /home/somebody/file")

    id = own_server.add().id
    monkeypatch.setattr(type(own_server.store), "get", explode)
    answer = own_server.client.get(f"/api/jobs/{id}")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    for word in ("secret", "somebody", "Runtime", "Traceback", ".py"):
        assert word not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "/home/somebody/jobs/a"),
    sqlite3.OperationalError("database or disk is full"),
    LimitError("disk_full", "the server's disk is full; try again when there is room"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_is_said(own_server: Live, error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(type(own_server.store), "add", fail)
    for path, name in (("/api/jobs", "picture"), ("/v1/videos", "input_reference")):
        answer = own_server.client.post(path, files={name: ("a.png", png())})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "disk_full")
        assert answer.headers["retry-after"] == "30"
        assert "somebody" not in answer.text


def test_paths_are_taken_out_of_messages():
    home = "/home/somebody/.cache/recurvid/jobs/a.png"
    assert without_paths(f"picture '{home}': broken\nline") == "picture '(a file)': broken line"
    assert without_paths(r"cannot open C:\Users\me\x.png now") == "cannot open (a file) now"
    for text in ("see http://127.0.0.1/docs/x", "1/2 and 3/4", "video/mp4 or image/png"):
        assert without_paths(text) == text


def test_no_web_sockets(server: Live):
    got = raw(server, "GET /api/jobs HTTP/1.1\nHost: localhost\nUpgrade: websocket\n"
              "Connection: Upgrade, close\nSec-WebSocket-Key: eA==\n"
              "Sec-WebSocket-Version: 13\n\n", wait=30)  # fmt: skip
    assert not got.startswith(b"HTTP/1.1 101")


def test_two_hosts_and_request_smuggling(server: Live):
    for head in ("GET /healthz HTTP/1.1\nHost: localhost\nHost: evil.example\n\n",
                 "GET /healthz HTTP/1.1\n\n",
                 f"{HEAD}Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\nGET /x",
                 f"{HEAD}Content-Length: 5\nContent-Length: 6\n\nabcdef"):  # fmt: skip
        got = raw(server, head, wait=30)
        assert got[9:12] in (b"400", b"403"), got[:200]


def test_the_log_holds_no_secrets(keyed: Live, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("DEBUG"):
        keyed.client.get("/api/queue?token=hidden-word", headers=GOOD)
        keyed.client.get("/api/queue", headers={"Authorization": "Bearer wrong-key-here"})
        deadline = time.monotonic() + 60
        while len([r for r in caplog.records if r.message == "request"]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    # uvicorn's own log of requests is off; pytest listens to it all the same.
    others = ("httpx", "httpcore", "uvicorn.access")
    ours = [r.__dict__ for r in caplog.records if not r.name.startswith(others)]
    text = json.dumps(ours, default=str)
    assert KEY not in text
    assert "wrong-key-here" not in text
    assert "hidden-word" not in text
    requests = [r.__dict__ for r in caplog.records if r.message == "request"]
    assert [r["status"] for r in requests] == [200, 401]
    assert requests[0]["owner"].startswith("key-")
