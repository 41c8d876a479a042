"""The one door of the page: keys, cookies, hosts, and what is never served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from recurvid.errors import Line
from recurvid.gui.bounds import UPLOAD, Bounds
from recurvid.gui.gate import COOKIE, Gate, Sessions
from recurvid.jobs.access import Access
from recurvid.jobs.arrivals import Pace

KEY, OTHER = "a key of some length", "another key of length"
ACCESS = Access.of(KEY)


def client(
    access: Access = ACCESS,
    *,
    host: str = "127.0.0.1",
    share: bool = False,
    base: str = "localhost",
) -> TestClient:
    async def inside(request: Request) -> PlainTextResponse:
        return PlainTextResponse("inside")

    app = Starlette(routes=[Route("/{rest:path}", inside, methods=["GET", "POST"])])
    sessions = Sessions(access)
    gate = Gate(app, sessions, host=host, share=share)
    return TestClient(gate, base_url=f"http://{base}:7860", follow_redirects=False)


@pytest.fixture
def locked() -> Iterator[TestClient]:
    with client() as made:
        yield made


def test_without_keys_everybody_here_comes_in():
    assert client(Access()).get("/").text == "inside"


@pytest.mark.parametrize(
    "path",
    ["/config", "/gradio_api/queue/join", "/gradio_api/file=x", "/media/a/b", "/theme.css",
     "/gradio_api/startup-events", "/nothing", "/HEALTHZ", "/login/x"],
)  # fmt: skip
def test_with_a_key_every_address_needs_it(locked: TestClient, path: str):
    assert locked.get(path).status_code == 401
    assert locked.post(path).status_code == 401
    assert locked.get(path, headers={"Authorization": f"Bearer {KEY}"}).text == "inside"


def test_the_health_check_needs_none(locked: TestClient):
    assert (locked.get("/healthz").status_code, locked.get("/healthz").text) == (200, "ok")


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 200), ("http://localhost:7860", 200), ("http://localhost:8000", 403),
     ("https://evil.example", 403), ("null", 403), ("", 403)],
)  # fmt: skip
def test_other_sites_send_nothing(origin: str | None, status: int):
    headers = {} if origin is None else {"Origin": origin}
    assert client(Access()).post("/gradio_api/queue/join", headers=headers).status_code == status


def test_a_person_logs_in_with_the_key(locked: TestClient):
    assert locked.get("/").headers["location"] == "login"
    form = locked.get("/login", headers={"Accept-Language": "ja"}).text
    assert 'type="password"' in form
    assert "キー" in form
    wrong = locked.post("/login", data={"key": OTHER})
    assert wrong.status_code == 401
    assert COOKIE not in locked.cookies
    assert OTHER not in wrong.text
    right = locked.post("/login", data={"key": KEY})
    assert right.status_code == 303
    said = right.headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=lax" in said
    assert KEY not in said
    assert locked.get("/").text == "inside"


@pytest.mark.parametrize("cookie", ["", "x", "é", "a" * 5000])
def test_a_made_up_cookie_opens_nothing(locked: TestClient, cookie: str):
    raw = f"{COOKIE}={cookie}".encode()
    assert locked.get("/config", headers=[(b"cookie", raw)]).status_code == 401


def test_a_login_that_is_too_long_is_not_read(locked: TestClient):
    assert locked.post("/login", content=b"key=" + b"a" * 100_000).status_code == 413


def test_every_key_is_an_owner_of_its_own(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{OTHER}\n")
    sessions = Sessions(Access.of(file=file))
    tokens = [sessions.open(key) for key in (KEY, OTHER)]
    owners = {sessions.owner({}, {COOKIE: token or ""}) for token in tokens}
    assert len(owners) == 2
    assert None not in owners
    bearers = {sessions.owner({"authorization": f"bearer {key}"}, {}) for key in (KEY, OTHER)}
    assert bearers == owners


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://example.org/x", "/gradio_api/file=https:/example.org/x",
     "/gradio_api/file=HTTPS%3A%2F%2Fexample.org", "/gradio_api/proxy=http://example.org",
     "/gradio_api/deep_link", "/gradio_api/runs", "/monitoring/summary"],
)  # fmt: skip
def test_gradio_fetches_nothing_from_elsewhere(path: str):
    assert client(Access()).get(path).status_code == 403


@pytest.mark.parametrize(
    ("base", "status"),
    [("localhost", 200), ("127.0.0.1", 200), ("evil.example", 403), ("192.168.1.2", 403)],
)
def test_a_name_that_points_here_is_not_enough(base: str, status: int):
    """DNS rebinding: a site whose name resolves to loopback must not reach the page."""
    assert client(Access(), base=base).get("/").status_code == status
    assert client(Access(), host="0.0.0.0", base=base).get("/").status_code == 200


def test_a_shared_page_has_any_name():
    made = client(share=True, base="something.example")
    assert made.get("/config", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert made.get("/config").status_code == 401


def sized(**options: Any) -> TestClient:
    async def inside(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/{rest:path}", inside, methods=["GET", "POST"])])
    gate = Gate(app, Sessions(Access()), host="127.0.0.1", **options)
    return TestClient(gate, base_url="http://localhost:7860")


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/x"])
def test_no_body_but_an_upload_may_be_large(path: str):
    """Whatever JSON is sent is read into memory, several times over."""
    made = sized(bounds=Bounds(upload=5000, other=1000))
    assert made.post(path, content=b"a" * 1000).text == "1000"
    pieces = (b"a" * 100 for _ in range(11))  # without a length
    for body in (b"a" * 1001, pieces):
        refused = made.post(path, content=body)
        assert (refused.status_code, "at most 1000" in refused.text) == (413, True)
    assert made.post(UPLOAD, content=b"a" * 1001).text == "1001"
    assert made.post(UPLOAD, content=b"a" * 5001).status_code == 413


def test_a_body_must_come_in_time():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except Exception:  # noqa: BLE001 - as Gradio does, which answers in its own words
            await PlainTextResponse("a server error", 500)(scope, receive, send)

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"a", "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    gate = Gate(app, Sessions(Access()), host="127.0.0.1", bounds=Bounds(pace=Pace(0.2, 10_000.0)))
    headers = [(b"host", b"localhost"), (b"content-length", b"1000000")]
    scope = {
        "type": "http", "method": "POST", "path": UPLOAD, "headers": headers,
        "query_string": b"", "scheme": "http", "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(asyncio.wait_for(gate(scope, drip, send), 10))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_nothing_is_uploaded_to_a_full_disk():
    full = ["the disk is nearly full"]
    made = sized(full=lambda: full[0])
    refused = made.post(UPLOAD, content=b"a")
    assert (refused.status_code, refused.text) == (507, full[0])
    assert made.post("/gradio_api/queue/join", content=b"a").status_code == 200


def test_no_other_site_may_frame_the_page():
    for answer in (sized().get("/"), client().get("/config"), client().get("/login")):
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_why_nothing_is_uploaded_is_said_in_the_visitors_language():
    short = Line("the disk is nearly full", "disk.short", free="1 MB", kept="9 MB")
    made = sized(full=lambda: short)
    refused = made.post(UPLOAD, content=b"x", headers={"accept-language": "zh-CN,en;q=0.5"})
    assert (refused.status_code, refused.text[:6]) == (507, "磁盘空间不足")
