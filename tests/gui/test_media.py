"""Files of jobs for the browser: by job and kind, for their owner, and nothing beside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from starlette.applications import Starlette
from starlette.testclient import TestClient
from tests.gui.jobs import PICTURE, put

from recurvid.generation.request import GenerationRequest
from recurvid.gui.media import KINDS, address, routes
from recurvid.jobs.states import JobState
from recurvid.jobs.store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "home")


def client(store: JobStore, owner: str | None = "") -> TestClient:
    return TestClient(Starlette(routes=routes(store, lambda _: owner)))


def test_every_kind_is_served_with_its_type(store: JobStore):
    files = ("preview.webp", "thumbnail.webp", "session/so_far.mp4", "video.mp4")
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE, files=files)
    for kind, mime in KINDS.items():
        where = address(store, job, kind)
        assert where is not None
        answer = client(store).get("/" + where)
        assert (answer.status_code, answer.headers["content-type"]) == (200, mime)
        assert "private" in answer.headers["cache-control"]


def test_a_video_can_be_read_in_parts_and_downloaded_under_its_title(store: JobStore):
    job = store.add(GenerationRequest(), PICTURE, title='../../Tee & Söhne\n"x".jpg')
    job = put(store, job, JobState.DONE, files=("video.mp4",))
    part = client(store).get(f"/media/{job.id}/video", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, b"bytes")
    saved = client(store).get(f"/media/{job.id}/video?download")
    said = saved.headers["content-disposition"]
    assert said.startswith("attachment")
    assert "/" not in said.replace("filename*=utf-8''", "")
    assert "\n" not in said


def test_what_is_not_there_is_not_found(store: JobStore):
    job = store.add(GenerationRequest(), PICTURE)
    assert address(store, job, "preview") is None
    for path in (f"{job.id}/previews", f"{job.id}/video", f"{job.id}/request", "video_0/video",
                 f"{job.id}/..", f"{job.id}/%2e%2e%2fjobs.sqlite3", "../jobs.sqlite3/video",
                 f"{job.id}/picture.png", f"{job.id}%2f..%2f{job.id}/picture"):  # fmt: skip
        assert client(store).get(f"/media/{path}").status_code == 404, path


def test_a_preview_that_went_meanwhile_is_a_still(store: JobStore):
    """The page asks a moment after the job has ended; that is no error on its console."""
    job = store.add(GenerationRequest(), PICTURE)
    answer = client(store).get(f"/media/{job.id}/preview?v=1")
    assert answer.content == store.picture(job.id).read_bytes()
    assert answer.headers["content-type"] == "image/png"
    put(store, job, JobState.DONE, files=("thumbnail.webp",))
    answer = client(store).get(f"/media/{job.id}/preview?v=1")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    put(store, job, JobState.RUNNING, files=("preview.webp",))
    assert client(store).get(f"/media/{job.id}/preview").content.startswith(b"some bytes")


def test_others_jobs_are_not_found_and_strangers_stay_out(store: JobStore):
    job = store.add(GenerationRequest(), PICTURE, owner="a")
    where = f"/media/{job.id}/picture"
    codes = [client(store, owner).get(where).status_code for owner in ("a", "b", "", None)]
    assert codes == [200, 404, 404, 401]


def test_a_link_is_not_followed(store: JobStore, tmp_path: Path):
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (store.folders.of(job.id) / "video.mp4").symlink_to(secret)
    assert client(store).get(f"/media/{job.id}/video").status_code == 404


def test_a_video_that_is_replaced_while_it_is_sent_arrives_whole(store: JobStore):
    """The length of one file and the bytes of another would be a broken video."""
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE, files=("video.mp4",))
    path = store.video(job.id)
    assert path is not None
    size = 3 * 1024 * 1024
    path.write_bytes(b"old" * size)
    app = Starlette(routes=routes(store, lambda _: ""))
    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)
        if message["type"] == "http.response.start":
            new = path.with_name("new")
            new.write_bytes(b"NEW!")
            new.replace(path)

    asyncio.run(app(_asked(f"/media/{job.id}/video"), _patient(), send))
    headers = dict(said[0]["headers"])
    body = b"".join(message.get("body", b"") for message in said[1:])
    assert int(headers[b"content-length"]) == len(body) == 3 * size
    assert body == b"old" * size


def test_who_goes_away_is_sent_no_more(store: JobStore):
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE, files=("video.mp4",))
    path = store.video(job.id)
    assert path is not None
    path.write_bytes(bytes(3 * 1024 * 1024))
    app = Starlette(routes=routes(store, lambda _: ""))
    pieces = 0
    left = asyncio.Event()

    async def send(message: Any) -> None:
        nonlocal pieces
        pieces += message["type"] == "http.response.body"
        if pieces == 2:
            left.set()
        await asyncio.sleep(0.01)

    asyncio.run(app(_asked(f"/media/{job.id}/video"), _patient(left), send))
    assert 2 <= pieces <= 4


def test_the_browser_is_told_when_what_it_has_is_right(store: JobStore):
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE, files=("video.mp4",))
    where = f"/media/{job.id}/video"
    first = client(store).get(where)
    same = client(store).get(where, headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = client(store).head(where)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))
    beyond = client(store).get(where, headers={"Range": "bytes=99999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(first.content)}"


def _asked(path: str) -> dict[str, Any]:
    return {
        "type": "http", "http_version": "1.1", "method": "GET", "path": path, "root_path": "",
        "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http",
    }  # fmt: skip


def _patient(left: asyncio.Event | None = None) -> Any:
    """A client that says nothing more; until it leaves, if it does."""

    async def receive() -> Any:
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return receive
