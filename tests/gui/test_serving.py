"""The page as it is served: what it gives away, and what it does not."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

import httpx
from tests.gui.jobs import PICTURE

from recurvid.errors import ComponentError, InputError
from recurvid.generation.request import GenerationRequest
from recurvid.gui.door import Door
from recurvid.gui.leftovers import sweep
from recurvid.gui.serving import TimedProtocol, served
from recurvid.jobs.access import Access
from recurvid.jobs.store import JobStore

KEY = "a key of some length"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> JobStore:
    return JobStore(tmp_path_factory.mktemp("served") / "home")


@pytest.fixture(scope="module")
def page(store: JobStore) -> Iterator[httpx.Client]:
    with (
        pytest.MonkeyPatch.context() as patch,
        served(store, Door(Access())) as address,
        httpx.Client(base_url=address.local, timeout=30) as client,
    ):
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield client


def test_the_page_and_its_parts_are_there(page: httpx.Client):
    answer = page.get("/")
    assert answer.status_code == 200
    assert "RecurVid" in answer.text
    assert page.get("/healthz").text == "ok"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "//etc/passwd", "/proc/self/environ", "../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/etc/passwd", str(PICTURE),
        "pyproject.toml", "http://127.0.0.1:1/x", "file:///etc/passwd", "/", "C:\\Windows",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/",
                                    "/assets/", "/svelte/"])  # fmt: skip
def test_no_file_of_this_machine_is_served(page: httpx.Client, prefix: str, path: str):
    # Raw: a client library would tidy the dots away.
    connection = http.client.HTTPConnection("127.0.0.1", page.base_url.port, timeout=30)
    connection.request("GET", prefix + path)
    answer = connection.getresponse()
    assert b"root:" not in answer.read()
    assert answer.status in (403, 404)
    connection.close()


def test_nothing_of_the_home_folder_is_served(page: httpx.Client, store: JobStore):
    job = store.add(GenerationRequest(), PICTURE)
    for path in (store.home / "jobs.sqlite3", store.picture(job.id)):
        assert path.is_file()
        assert page.get(f"/gradio_api/file={path}").status_code == 403
    assert page.get(f"/media/{job.id}/picture").status_code == 200


def test_an_upload_stays_with_the_session_and_is_limited(page: httpx.Client, store: JobStore):
    sent = page.post("/gradio_api/upload", files={"files": ("../../x.jpg", b"abc")})
    (path,) = sent.json()
    assert Path(path).is_relative_to("/tmp")
    assert ".." not in path
    assert page.get(f"/gradio_api/file={path}").content == b"abc"
    large = b"x" * (store.limits.upload_bytes + 1)
    assert page.post("/gradio_api/upload", files={"files": ("x.jpg", large)}).status_code == 413


def test_what_is_left_of_a_broken_upload_goes(
    page: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "uploads"
    with monkeypatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        head = "--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\nxyz"
        answer = page.post(
            "/gradio_api/upload",
            content=head.encode(),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        whole = page.post("/gradio_api/upload", files={"files": ("x.jpg", b"abc")}).json()
    assert answer.status_code == 200  # Gradio took it for a form without files
    uploads = Path(whole[0]).parents[1]
    (left,) = (path for path in uploads.iterdir() if path.is_file())
    assert sweep(uploads) == []
    assert sweep(uploads, time.time() + 3700) == [left]
    assert Path(whole[0]).is_file()


def test_whoever_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TimedProtocol, "header_seconds", 0.3)
    with (
        served(JobStore(tmp_path / "home"), Door(Access())) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address.local).port), 10) as silent,
    ):
        silent.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert silent.recv(1) == b""


def events(page: httpx.Client) -> dict[str, dict]:
    config = page.get("/config").json()
    made = {component["id"]: component for component in config["components"]}
    return {
        made[target]["props"].get("elem_id") or str(target): dependency
        for dependency in config["dependencies"]
        for target, _ in dependency["targets"]
        if target is not None and target in made
    }


def test_no_event_takes_a_path_that_was_not_uploaded(page: httpx.Client):
    """What a browser says of a file is its own claim: it must have come through the upload."""
    replay = events(page)["replay"]
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    joined = page.post(
        "/gradio_api/queue/join",
        json={"data": [file], "fn_index": replay["id"], "session_hash": "abc"},
    )
    said = joined.text
    if joined.status_code == 200:
        with page.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
            said = "".join(stream.iter_text())
    assert '"success":true' not in said.replace(" ", "")
    assert "root:" not in said


def test_no_event_is_an_api(page: httpx.Client):
    config = page.get("/config").json()
    shown = {dependency["api_visibility"] for dependency in config["dependencies"]}
    assert shown == {"private"}
    assert page.get("/gradio_api/info").json()["named_endpoints"] == {}
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert page.get(path).status_code == 404, path


def test_the_camera_takes_what_is_there_and_no_mirror_image(page: httpx.Client):
    pictures = [
        made for made in page.get("/config").json()["components"] if made["type"] == "image"
    ]
    assert {made["props"]["elem_id"] for made in pictures} == {"picture", "end-picture"}
    for made in pictures:
        assert "webcam" in made["props"]["sources"]
        assert made["props"]["webcam_options"]["mirror"] is False


def test_nothing_is_loaded_from_elsewhere(page: httpx.Client):
    text = page.get("/").text
    for host in ("googleapis", "gstatic", "cdnjs", "unpkg", "jsdelivr"):
        assert host not in text
    config = page.get("/config").json()
    assert config["analytics_enabled"] is False
    assert "googleapis" not in page.get("/theme.css").text


def test_no_other_origin_may_read(page: httpx.Client):
    for origin in ("https://evil.example", "http://localhost:1", "null"):
        for method in ("GET", "OPTIONS", "POST"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = page.request(method, "/config", headers=asked)
            assert "access-control-allow-origin" not in answer.headers


def test_a_stranger_sees_nothing_of_a_locked_page(tmp_path: Path):
    store = JobStore(tmp_path / "home")
    with (
        served(store, Door(Access.of(KEY))) as address,
        httpx.Client(base_url=address.local, timeout=30) as client,
    ):
        for path in ("/config", "/theme.css", "/gradio_api/info", "/gradio_api/startup-events"):
            assert client.get(path).status_code == 401, path
        assert client.get("/").headers["location"] == "login"
        assert client.post("/login", data={"key": KEY}).status_code == 303
        assert client.get("/config").status_code == 200


def test_doors_that_strangers_could_use_ask_for_a_key():
    with pytest.raises(InputError, match="RECURVID_API_KEY"):
        Door(Access(), host="0.0.0.0").check()
    with pytest.raises(InputError, match="--share"):
        Door(Access(), share=True).check()
    Door(Access(), host="0.0.0.0").check(without_key=True)
    Door(Access.of(KEY), host="0.0.0.0", share=True).check()
    Door(Access()).check()


def test_a_taken_port_is_one_line(page: httpx.Client, tmp_path: Path):
    port = page.base_url.port
    store = JobStore(tmp_path / "home")
    with (
        pytest.raises(ComponentError, match=f"port {port}.*--port"),
        served(store, Door(Access(), port=port)),
    ):
        pass


def test_neither_the_package_nor_the_page_loads_what_it_does_not_need():
    code = (
        "import json, sys, recurvid; plain = 'gradio' in sys.modules;"
        "import recurvid.gui.serving; print(json.dumps([plain, 'torch' in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == [False, False]
