"""Files of jobs for the browser: by job and kind, for their owner, and nothing beside."""

from __future__ import annotations

from pathlib import Path

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
