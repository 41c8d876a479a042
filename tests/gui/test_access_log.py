"""The log of the page: one line a request, with facts by name and without what is nobody's."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from recurvid.gui.access_log import told_path
from recurvid.gui.gate import Gate, Sessions
from recurvid.jobs.access import Access
from recurvid.jobs.logs import JsonLines

KEY = "a key of some length"


class Log:
    """The lines of the page's requests, as objects."""

    def __init__(self, stream: StringIO):
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("recurvid.gui.requests")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield Log(stream)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def client(access: Access) -> TestClient:
    async def inside(request: Request) -> PlainTextResponse:
        if "broken" in request.url.path:
            raise ValueError("a mistake of ours")
        return PlainTextResponse("inside")

    app = Starlette(routes=[Route("/{rest:path}", inside, methods=["GET", "POST"])])
    gate = Gate(app, Sessions(access), host="127.0.0.1")
    return TestClient(gate, base_url="http://localhost:7860", raise_server_exceptions=False)


def test_what_a_person_does_is_one_line_each(log: Log):
    page = client(Access())
    page.get("/?secret=1")
    page.post("/gradio_api/queue/join?x=1")
    for polled in ("/gradio_api/queue/data", "/gradio_api/run/predict", "/media/video_1/preview",
                   "/healthz", "/assets/index.js"):  # fmt: skip
        page.get(polled)
    said = [(line["method"], line["path"], line["status"]) for line in log.lines]
    assert said == [("GET", "/", 200), ("POST", "/gradio_api/queue/join", 200)]
    first = log.lines[0]
    assert (first["message"], first["logger"]) == ("request", "recurvid.gui.requests")
    assert first["seconds"] >= 0
    assert "secret" not in log.text


def test_refusals_and_errors_are_always_told(log: Log):
    locked = client(Access.of(KEY))
    locked.get("/media/video_1/video")
    locked.get("/gradio_api/broken", headers={"Authorization": f"Bearer {KEY}"})
    told = [(line["level"], line["path"], line["status"]) for line in log.lines]
    assert told == [
        ("info", "/media/video_1/video", 401),
        ("warning", "/gradio_api/broken", 500),
    ]
    owner = Access.of(KEY).check(KEY)
    assert [line["owner"] for line in log.lines] == ["", owner]
    assert KEY not in log.text


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/gradio_api/file=/tmp/x/Anna at the beach.png", "/gradio_api/file"),
        ("/gradio_api/file/tmp/x/Anna.png", "/gradio_api/file"),
        ("/gradio_api/heartbeat/abcdef0123", "/gradio_api/heartbeat"),
        ("/gradio_api/queue/join/", "/gradio_api/queue/join"),
        ("/", "/"),
        ("/" + "x" * 5000, "/" + "x" * 199),
    ],
)
def test_a_path_gives_away_no_name_and_no_session(path: str, told: str):
    assert told_path(path) == told
