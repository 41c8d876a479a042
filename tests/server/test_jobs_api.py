"""The native endpoints: what a job has and can do, its files, its events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.live_server import PLAN, VIDEO, Live, live, png

from recurvid.generation.request import limits_of, request_fields
from recurvid.jobs.access import Access
from recurvid.jobs.claims import Claims
from recurvid.jobs.limits import Limits

REQUEST = {"prompt": "pan left", "seconds": 3, "seed": 9, "size": "96x64", "order": "endpoint"}
HOW = {"device": "cpu", "dtype": "float32", "vram": 6.5, "attention": "sdpa", "compiled": True}


def create(server: Live, **parts: Any) -> httpx.Response:
    files = {"picture": ("my photo.png", png()), **parts.pop("files", {})}
    return server.client.post("/api/jobs", files=files, data=parts)


def test_everything_can_be_asked(own_server: Live):
    answer = create(
        own_server,
        request=json.dumps(REQUEST),
        how=json.dumps(HOW),
        title="my title",
        files={"end_picture": ("end.png", png(seed=1))},
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    job = own_server.store.get(body["id"])
    assert {name: getattr(job.request, name) for name in REQUEST} == REQUEST
    assert {name: getattr(job.how, name) for name in HOW} == HOW
    assert (job.title, job.has_end_picture, job.owner) == ("my title", True, "")
    assert body["request"] == {k: v for k, v in job.request.to_json().items() if k != "format"}
    assert body["how"] == job.how.to_json()
    assert (body["state"], body["percent"], body["width"]) == ("queued", 0, None)
    assert "owner" not in body
    assert own_server.client.get(f"/api/jobs/{job.id}").json() == body


def test_the_schema_is_that_of_a_request(server: Live):
    """Every field with its type, limits, choices and help; none invented."""
    schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
    shown = schemas["GenerationRequest"]["properties"]
    assert list(shown) == [spec.name for spec in request_fields()]
    assert schemas["GenerationRequest"]["additionalProperties"] is False
    for spec in request_fields():
        limits, field = limits_of(spec), shown[spec.name]
        assert limits.help in field["description"]
        assert field.get("default") == spec.default
        inner = [field, *field.get("anyOf", ())]
        for name, value in (("minimum", limits.minimum), ("maximum", limits.maximum)):
            shown_limits = [one[name] for one in inner if name in one]
            assert shown_limits == ([] if value is None else [pytest.approx(value)]), spec.name
        if limits.choices:
            assert list(limits.choices) in [one.get("enum") for one in inner]
    assert shown["model"]["enum"][0] == "bundled"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ({"request": "{"}, None),
        ({"request": "[]"}, None),
        ({"request": "[" * 100_000}, None),
        ({"request": '{"seconds": NaN}'}, "seconds"),
        ({"request": '{"seconds": "5"}'}, "seconds"),
        ({"request": '{"picture": "/etc/passwd"}'}, None),
        ({"request": '{"prompt": "\\ud800"}'}, "prompt"),
        ({"request": '{"model": "lllyasviel/FramePackI2V_HY"}'}, "model"),
        ({"request": '{"model": "framepack"}'}, "model"),
        ({"how": '{"device": 1}'}, "device"),
        ({"how": '{"exact_steps": true}'}, "exact_steps"),
        ({"how": '{"metadata": 0}'}, "metadata"),
        ({"how": '{"path": "x"}'}, "path"),
        ({"how": '{"device": "\\ud800"}'}, "device"),
        ({"how": "1"}, None),
        ({"how": "{"}, "how"),
        ({"output": "/tmp/x.mp4"}, "output"),
        ({"picture": "text"}, "picture"),
        ({"files": {"request": ("r.json", b"{}")}}, "request"),
        ({"files": {"end_picture": ("e.png", b"broken")}}, "end_picture"),
    ],
)
def test_what_is_wrong_is_refused(server: Live, parts: dict[str, Any], param: str | None):
    before = sorted(server.store.folders.root.iterdir())
    answer = create(server, **parts)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    if param is not None:
        assert error["param"] == param
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    assert str(server.store.home) not in answer.text
    assert sorted(server.store.folders.root.iterdir()) == before


def test_file_names_are_titles_only(own_server: Live):
    for name in ("../../evil.png", "/etc/passwd", "C:\\boot.ini", "a\x00b\n.png", "x" * 500):
        answer = own_server.client.post("/api/jobs", files={"picture": (name, png())})
        assert answer.status_code == 201
        title = answer.json()["title"]
        assert "/" not in title
        assert "\\" not in title
        assert title.isprintable()
        assert len(title) <= 120
        folder = own_server.store.folders.of(answer.json()["id"])
        assert [path.name for path in folder.iterdir()] == ["picture.png"]


def test_edit_move_duplicate_and_delete(own_server: Live):
    ids = [own_server.add(f"prompt {n}").id for n in range(3)]
    client = own_server.client

    def waiting() -> list[str]:
        return client.get("/api/queue").json()["waiting"]

    assert waiting() == ids
    assert client.post(f"/api/jobs/{ids[2]}/move", json={"before": ids[0]}).status_code == 200
    assert waiting() == [ids[2], ids[0], ids[1]]
    assert client.post(f"/api/jobs/{ids[2]}/move", json={"before": None}).status_code == 200
    assert waiting() == ids
    edited = client.put(f"/api/jobs/{ids[0]}", json={"request": {"prompt": "b", "seconds": 2}})
    assert edited.json()["request"]["prompt"] == "b"
    assert edited.json()["revision"] > 1
    how = client.put(f"/api/jobs/{ids[0]}", json={"request": {}, "how": {"device": "cpu"}})
    assert (how.json()["how"]["device"], how.json()["request"]["prompt"]) == ("cpu", "")
    wrong = client.put(f"/api/jobs/{ids[0]}", json={"request": {"steps": 0}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "request.steps")
    copy = client.post(f"/api/jobs/{ids[1]}/duplicate")
    assert copy.status_code == 201
    assert copy.json()["request"]["prompt"] == "prompt 1"
    assert copy.json()["id"] not in ids
    assert client.delete(f"/api/jobs/{ids[1]}").status_code == 204
    assert client.get(f"/api/jobs/{ids[1]}").status_code == 404
    assert waiting() == [ids[0], ids[2], copy.json()["id"]]


def test_cancel_and_resume(own_server: Live):
    id = own_server.add().id
    post = own_server.client.post
    assert post(f"/api/jobs/{id}/cancel").json()["state"] == "cancelled"
    assert post(f"/api/jobs/{id}/resume").json()["state"] == "queued"
    claim = own_server.claim()
    begun = own_server.client.put(f"/api/jobs/{id}", json={"request": {}})
    assert (begun.status_code, begun.json()["error"]["code"]) == (409, "wrong_state")
    assert own_server.client.delete(f"/api/jobs/{id}").status_code == 409
    assert post(f"/api/jobs/{id}/cancel").json()["cancelling"] is True
    Claims(own_server.store).stopped(claim)
    assert own_server.client.get(f"/api/jobs/{id}").json()["state"] == "cancelled"
    post(f"/api/jobs/{id}/resume")
    own_server.finish(own_server.claim())
    assert post(f"/api/jobs/{id}/cancel").status_code == 409
    assert post(f"/api/jobs/{id}/resume").status_code == 409


def test_files_of_a_job(own_server: Live):
    id = own_server.add().id
    get = own_server.client.get
    assert get(f"/api/jobs/{id}/picture").headers["content-type"] == "image/png"
    for name in ("end_picture", "preview", "so_far", "video", "thumbnail", "sheet"):
        early = get(f"/api/jobs/{id}/{name}")
        assert (early.status_code, early.json()["error"]["code"]) == (404, "not_ready")
    own_server.finish(own_server.claim())
    kinds = {"video": "video/mp4", "so_far": "video/mp4", "sheet": "image/jpeg",
             "preview": "image/webp", "thumbnail": "image/webp", "end_picture": "image/png",
             "picture": "image/png"}  # fmt: skip
    for name, kind in kinds.items():
        answer = get(f"/api/jobs/{id}/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert len(answer.content) == int(answer.headers["content-length"]) > 0


def test_head_tells_what_get_would(done: tuple[Live, str]):
    server, id = done
    for path in (f"/api/jobs/{id}/video", f"/v1/videos/{id}/content", f"/api/jobs/{id}", "/docs"):
        whole, head = server.client.get(path), server.client.head(path)
        told = ("content-length", "content-type", "etag")
        assert (head.status_code, head.content) == (200, b""), path
        assert [head.headers.get(n) for n in told] == [whole.headers.get(n) for n in told]
    assert server.client.head(f"/api/jobs/{id}/nothing").status_code == 404
    assert server.client.head("/api/events").status_code == 405


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        ("bytes=0-0", 206, range(1)),
        ("bytes=100-199", 206, range(100, 200)),
        ("bytes=10000-", 206, range(10000, len(VIDEO))),
        ("bytes=10000-99999999", 206, range(10000, len(VIDEO))),
        ("bytes=-100", 206, range(len(VIDEO) - 100, len(VIDEO))),
        ("bytes=-99999999", 200, range(len(VIDEO))),
        ("bytes=0-", 200, range(len(VIDEO))),
        (f"bytes={len(VIDEO)}-", 416, range(0)),
        ("bytes=-0", 416, range(0)),
        ("bytes=5-2", 200, range(len(VIDEO))),
        ("bytes=0-1,5-6", 200, range(len(VIDEO))),
        ("lines=1-2", 200, range(len(VIDEO))),
        ("bytes=" + "9" * 400 + "-", 200, range(len(VIDEO))),
    ],
)
def test_ranges(done: tuple[Live, str], asked: str, status: int, span: range):
    server, id = done
    answer = server.client.get(f"/v1/videos/{id}/content", headers={"Range": asked})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(VIDEO)}"
        return
    assert answer.content == VIDEO[span.start : span.stop]
    if status == 206:
        shown = f"bytes {span.start}-{span.stop - 1}/{len(VIDEO)}"
        assert answer.headers["content-range"] == shown


@pytest.fixture(scope="module")
def done(server: Live) -> tuple[Live, str]:
    id = server.add().id
    server.finish(server.claim())
    return server, id


def test_what_a_client_has_is_not_sent_again(done: tuple[Live, str]):
    server, id = done
    address = f"/api/jobs/{id}/sheet"
    tag = server.client.get(address).headers["etag"]
    again = server.client.get(address, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    changed = server.client.get(address, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert changed.status_code == 200


def test_a_link_in_place_of_a_file_is_not_followed(own_server: Live, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    id = own_server.add().id
    own_server.finish(own_server.claim())
    for name in ("video.mp4", "sheet.jpg", "preview.webp"):
        path = own_server.store.folders.of(id) / name
        path.unlink()
        path.symlink_to(secret)
    for address in (f"/v1/videos/{id}/content", f"/api/jobs/{id}/sheet", f"/api/jobs/{id}/preview"):
        answer = own_server.client.get(address)
        assert answer.status_code == 404
        assert "secret" not in answer.text


def test_a_file_that_is_replaced_meanwhile_is_sent_whole(own_server: Live):
    id = own_server.add().id
    own_server.finish(own_server.claim())
    path = own_server.store.folders.of(id) / "so_far.mp4"
    path.write_bytes(b"a" * 8_000_000)
    with own_server.client.stream("GET", f"/api/jobs/{id}/so_far") as answer:
        pieces = answer.iter_bytes(65536)
        first = next(pieces)
        beside = path.with_suffix(".new")
        beside.write_bytes(b"b" * 100)
        beside.replace(path)
        whole = first + b"".join(pieces)
    assert whole == b"a" * 8_000_000


def sse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value


def follow(server: Live, id: str, **headers: str) -> list[dict[str, Any]]:
    address = f"/api/jobs/{id}/events"
    with server.client.stream("GET", address, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(sse(answer.iter_lines()))


def test_events_end_with_the_job_and_continue_where_one_stopped(own_server: Live):
    id = own_server.add().id

    def work() -> None:
        claim = own_server.claim()
        for step in range(1, 4):
            time.sleep(0.3)
            own_server.step(claim, step)
        Claims(own_server.store).progress(claim, claim.job.progress, "preview", section=0, step=3)
        time.sleep(0.3)
        own_server.finish(claim)

    other = own_server.add("other").id
    worker = threading.Thread(target=work)
    worker.start()
    events = follow(own_server, id)
    worker.join()
    kinds = [event["event"] for event in events]
    assert kinds[0] == "state"
    assert kinds[-1] == "finished"
    assert {"state", "planned", "progress", "preview", "finished"} <= set(kinds)
    assert all(event["data"]["job_id"] == id != other for event in events)
    numbers = [int(event["id"]) for event in events]
    assert numbers == sorted(set(numbers))
    states = [event["data"]["state"] for event in events if event["event"] == "state"]
    assert states == ["queued", "running", "done"]
    look = next(event["data"] for event in events if event["event"] == "preview")
    assert look["url"] == f"/api/jobs/{id}/preview"
    planned = next(event["data"] for event in events if event["event"] == "planned")
    assert (planned["width"], planned["frames"]) == (PLAN.width, PLAN.frames)
    assert str(own_server.store.home) not in json.dumps(events)
    middle = numbers[-3]
    rest = follow(own_server, id, **{"Last-Event-ID": str(middle)})
    assert [int(event["id"]) for event in rest] == [n for n in numbers if n > middle]
    known = {"Last-Event-ID": str(numbers[-1])}
    assert own_server.client.get(f"/api/jobs/{id}/events", headers=known).status_code == 204


def test_events_of_all_jobs_are_those_of_the_owner(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("first-key-0\nsecond-key-0\n")
    access = Access.of(None, file)
    first, second = access.owners()
    with live(tmp_path / "home", access) as server:
        headers = {"Authorization": "Bearer first-key-0"}
        with server.client.stream("GET", "/api/events?after=0", headers=headers) as answer:
            theirs, mine = server.add(owner=second).id, server.add(owner=first).id
            event = next(sse(answer.iter_lines()))
        assert event["data"]["job_id"] == mine
        for name in ("events", "picture", "video", "preview", "so_far"):
            assert (
                server.client.get(f"/api/jobs/{theirs}/{name}", headers=headers).status_code == 404
            )
        for name in ("cancel", "resume", "duplicate"):
            address = f"/api/jobs/{theirs}/{name}"
            assert server.client.post(address, headers=headers).status_code == 404
        move = server.client.post(
            f"/api/jobs/{mine}/move", json={"before": theirs}, headers=headers
        )
        assert move.status_code == 404
        queue = server.client.get("/api/queue", headers=headers).json()
        assert queue["waiting"] == [mine]
        assert [
            j["id"] for j in server.client.get("/api/jobs", headers=headers).json()["data"]
        ] == [mine]


def test_a_stream_ends_with_the_server(tmp_path: Path):
    with live(tmp_path / "home") as server:
        id = server.add().id
        lines: list[str] = []

        def read() -> None:
            address = f"{server.address}/api/jobs/{id}/events"
            with httpx.stream("GET", address, timeout=60) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    if line.startswith("id: "):
                        begun.set()

        begun = threading.Event()
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
    reader.join(60)
    assert not reader.is_alive()


def test_models_and_queue(server: Live):
    models = {model["name"]: model for model in server.client.get("/api/models").json()["data"]}
    assert models["bundled"]["present"] is True
    assert models["framepack"]["present"] is False
    assert models["bundled"]["defaults"]["fps"] == 12
    queue = server.client.get("/api/queue").json()
    assert (queue["paused"], queue["reason"]) == (False, None)


def test_a_full_queue_and_too_large_uploads(tmp_path: Path):
    limits = Limits(queue_length=2, upload_bytes=5000, pixels=100 * 100)
    with live(tmp_path / "home", limits=limits) as server:
        large = server.client.post("/api/jobs", files={"picture": ("a", b"x" * 5001)})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "upload_too_large")
        wide = server.client.post("/api/jobs", files={"picture": ("a", wide_png())})
        assert wide.status_code == 400
        assert "megapixels" in wide.json()["error"]["message"]
        for _ in range(2):
            assert create(server).status_code == 201
        full = create(server)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")


def wide_png() -> bytes:
    """A few bytes that claim to be 30000 by 30000 pixels, and would be when decoded."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (30000, 1000)).save(file, "PNG", optimize=True)
    assert len(file.getvalue()) < 5000
    return file.getvalue()


def test_unknown_addresses_and_names(server: Live):
    for path in ("/nothing", "/api/jobs/video_x", "/api/jobs/..%2f..%2fjobs.sqlite3",
                 "/v1/videos/%2e%2e%2f%2e%2e%2fetc%2fpasswd/content", "/api/jobs/" + "a" * 3000,
                 f"/api/jobs/video_{'0' * 32}", "//etc/passwd", "/docs/../../x"):  # fmt: skip
        answer = server.client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    assert server.client.post("/api/queue").status_code == 405
    for query in ("limit=0", "limit=x", "limit=" + "9" * 40, "after=video_x", "state=odd"):
        assert server.client.get(f"/api/jobs?{query}").status_code == 400
