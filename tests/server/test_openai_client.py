"""The official ``openai`` client, unchanged."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.server.live_server import EXAMPLE, VIDEO, Live, live, png

from recurvid.checkpoints.known import ModelSpec
from recurvid.checkpoints.locate import Found
from recurvid.jobs.access import Access
from recurvid.jobs.claims import Claims
from recurvid.server import models

openai = pytest.importorskip("openai")
warnings.filterwarnings("ignore", message="The Sora API is scheduled")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API")


def client_of(server: Live, key: str = "unused", **options: Any):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, **options)


@pytest.fixture
def videos(own_server: Live):
    with client_of(own_server) as client:
        yield client.videos


def test_create_and_retrieve(own_server: Live, videos: Any):
    with EXAMPLE.open("rb") as picture:
        made = videos.create(
            model="bundled", prompt="pan left", seconds="4", size="128x96", input_reference=picture
        )
    assert (made.object, made.status, made.progress, made.model) == (
        "video",
        "queued",
        0,
        "bundled",
    )
    assert (made.seconds, made.size, made.prompt) == ("4", "128x96", "pan left")
    assert made.error is None
    assert made.completed_at is None
    assert abs(made.created_at - time.time()) < 60
    job = own_server.store.get(made.id)
    assert (job.request.seconds, job.request.size, job.title) == (4.0, "128x96", "valley.jpg")
    assert own_server.store.picture(made.id).is_file()
    assert videos.retrieve(made.id) == made


def test_every_field_of_a_request_is_taken(own_server: Live, videos: Any):
    more = {"seed": 7, "steps": 3, "whole_sections": True, "cfg_rescale": 0.5, "order": "forward"}
    made = videos.create(prompt="x", input_reference=("a.png", png()), extra_body=more)
    request = own_server.store.get(made.id).request
    assert {name: getattr(request, name) for name in more} == more


def test_a_reference_may_be_a_data_address(own_server: Live, videos: Any):
    address = f"data:image/png;base64,{base64.b64encode(png(40, 30)).decode()}"
    reference = {"image_url": address}
    made = videos.create(prompt="x", extra_body={"input_reference": reference})  # as a form
    assert own_server.store.picture(made.id).is_file()
    fields = {"prompt": "x", "seconds": "4", "input_reference": reference}
    answer = own_server.client.post("/v1/videos", json=fields)
    assert (answer.status_code, answer.json()["seconds"]) == (200, "4")
    for address in ("http://127.0.0.1/a.png", "file:///etc/passwd", "data:image/png,abc", "", "@"):
        body = {"input_reference": {"image_url": address}}
        with pytest.raises(openai.BadRequestError, match=r"only data:"):
            videos.create(prompt="x", extra_body=body)


def test_states_and_progress(own_server: Live, videos: Any):
    id = videos.create(prompt="x", input_reference=("a.png", png()), seconds="2").id
    claim = own_server.claim()
    seen = [videos.retrieve(id).progress]
    for step in range(1, 5):
        own_server.step(claim, step)
        video = videos.retrieve(id)
        assert (video.status, video.size) == ("in_progress", "64x48")
        seen.append(video.progress)
    assert seen[0] == 0
    assert seen == sorted(set(seen))
    assert seen[-1] < 100
    Claims(own_server.store).stopped(claim)
    assert own_server.store.get(id).state == "interrupted"
    assert videos.retrieve(id).status == "in_progress"
    own_server.finish(own_server.claim())
    video = videos.retrieve(id)
    assert (video.status, video.progress, video.seconds) == ("completed", 100, "2")
    assert video.completed_at >= video.created_at


def test_failed_and_cancelled_say_why(own_server: Live, videos: Any):
    first, second = (own_server.add().id for _ in range(2))
    Claims(own_server.store).failed(own_server.claim(), "out_of_memory", "it needs more memory")
    own_server.store.cancel(second)
    failed, cancelled = videos.retrieve(first), videos.retrieve(second)
    assert (failed.status, failed.error.code) == ("failed", "out_of_memory")
    assert failed.error.message == "it needs more memory"
    assert (cancelled.status, cancelled.error.code) == ("failed", "cancelled")


def test_create_and_poll(own_server: Live, videos: Any):
    def work() -> None:
        until = time.monotonic() + 20
        while not own_server.store.queue() and time.monotonic() < until:
            time.sleep(0.05)
        own_server.finish(own_server.claim())

    worker = threading.Thread(target=work)
    worker.start()
    made = videos.create_and_poll(prompt="x", input_reference=("a.png", png()))
    worker.join()
    assert made.status == "completed"
    assert videos.download_content(made.id).read() == VIDEO


def test_content(own_server: Live, videos: Any, tmp_path: Path):
    id = own_server.add().id
    with pytest.raises(openai.NotFoundError) as early:
        videos.download_content(id)
    assert early.value.code == "video_not_ready"
    own_server.finish(own_server.claim())
    videos.download_content(id).write_to_file(tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == VIDEO
    kinds = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
    for variant, kind in kinds.items():
        answer = videos.with_raw_response.download_content(id, variant=variant)
        assert answer.headers["content-type"] == kind
        assert int(answer.headers["content-length"]) > 0


def test_list_goes_through_all_pages(own_server: Live, videos: Any):
    ids = [own_server.add(f"prompt {n}").id for n in range(7)]
    assert [v.id for v in videos.list(limit=3)] == ids[::-1]
    assert [v.id for v in videos.list(limit=2, order="asc")] == ids
    page = videos.list(limit=3, after=ids[3])
    assert ([v.id for v in page.data], page.has_more) == (ids[2::-1], False)


def test_delete(own_server: Live, videos: Any):
    id = own_server.add().id
    folder = own_server.store.folders.of(id)
    gone = videos.delete(id)
    assert (gone.id, gone.object, gone.deleted) == (id, "video.deleted", True)
    assert not folder.exists()
    with pytest.raises(openai.NotFoundError):
        videos.retrieve(id)
    running = own_server.add().id
    own_server.claim()
    with pytest.raises(openai.ConflictError) as conflict:  # at once: it is told not to try again
        videos.delete(running)
    assert "running" in str(conflict.value)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"seconds": "many"}, "invalid_request", "seconds"),
        ({"seconds": "100000"}, "invalid_request", "seconds"),
        ({"seconds": "500"}, "too_long", "seconds"),
        ({"size": "wide"}, "invalid_request", "size"),
        ({"model": "sora-2"}, "model_not_found", "model"),
        ({"model": "framepack"}, "model_not_installed", "model"),
        ({"model": "../../etc"}, "model_not_found", "model"),
        ({"extra_body": {"colour": "red"}}, "invalid_request", "colour"),
        ({"extra_body": {"steps": "0"}}, "invalid_request", "steps"),
        ({"extra_body": {"steps": "400"}}, "too_many_steps", "steps"),
        ({"extra_body": {"solver": "magic"}}, "invalid_request", "solver"),
        ({"input_reference": ("a.png", b"no picture")}, "invalid_request", "input_reference"),
        ({"input_reference": ("a.png", b"")}, "invalid_request", "input_reference"),
    ],
)
def test_what_is_wrong_is_named(server: Live, fields: dict[str, Any], code: str, param: str):
    before = len(server.store.list(limit=1000))
    given = {"prompt": "x", "input_reference": ("a.png", png()), **fields}
    with client_of(server) as client, pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(**given)
    error = refused.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    message = error.body["message"]
    assert "\n" not in message
    assert str(server.store.home) not in message
    assert len(server.store.list(limit=1000)) == before


def test_a_picture_is_needed(server: Live):
    with client_of(server) as client, pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt="x")
    assert (refused.value.code, refused.value.param) == ("missing_picture", "input_reference")


def test_keys_and_owners(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("first-key-0\nsecond-key-0\n")
    with live(tmp_path / "home", Access.of(None, file)) as server:
        first, second = client_of(server, "first-key-0"), client_of(server, "second-key-0")
        id = first.videos.create(prompt="mine", input_reference=("a.png", png())).id
        assert [v.id for v in first.videos.list()] == [id]
        assert list(second.videos.list()) == []
        for call in (second.videos.retrieve, second.videos.delete, second.videos.download_content):
            with pytest.raises(openai.NotFoundError):
                call(id)
        with pytest.raises(openai.AuthenticationError) as refused:
            client_of(server, "third-key-00").videos.list()
        assert refused.value.code == "invalid_api_key"
        assert first.videos.retrieve(id).id == id


def test_what_is_not_there_is_said(server: Live):
    id = server.add().id
    with client_of(server) as client:
        asked = {
            "remix": lambda: client.videos.remix(id, prompt="x"),
            "edits": lambda: client.videos.edit(prompt="x", video=("a.mp4", VIDEO)),
            "extensions": lambda: client.videos.extend(
                prompt="x", seconds="4", video=("a.mp4", VIDEO)
            ),
            "characters": lambda: client.videos.create_character(name="x", video=("a.mp4", VIDEO)),
        }
        for name, ask in asked.items():
            with pytest.raises(openai.BadRequestError, match=f"{name}: is not there") as refused:
                ask()
            assert refused.value.code == "not_supported"
        with pytest.raises(openai.BadRequestError, match="characters: is not there"):
            client.videos.get_character("x")
        with pytest.raises(openai.NotFoundError, match="no such address"):
            client.images.generate(prompt="x")
    server.store.delete(id)


def test_models(server: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    look = models.status

    def installed(spec: ModelSpec) -> tuple[Found, ...]:
        if spec.name != "framepack":
            return look(spec)
        return tuple(Found(part, tmp_path, None, 1) for part in spec.components)

    with client_of(server) as client:
        assert [model.id for model in client.models.list()] == ["bundled"]
        bundled = client.models.retrieve("bundled")
        assert (bundled.object, bundled.owned_by) == ("model", "recurvid")
        assert 0 < bundled.created <= time.time()
        assert next(iter(client.models.list())) == bundled
        for name in ("framepack", "sora-2", "a b"):
            with pytest.raises(openai.NotFoundError) as missing:
                client.models.retrieve(name)
            assert missing.value.code == "model_not_found"
        monkeypatch.setattr(models, "status", installed)
        assert [model.id for model in client.models.list()] == ["bundled", "framepack"]
        assert client.models.retrieve("framepack").owned_by == "lllyasviel"
        with pytest.raises(openai.APIStatusError) as refused:
            client.models.delete("bundled")
        assert refused.value.status_code == 405


def test_models_need_a_key_too(tmp_path: Path):
    with live(tmp_path / "home", Access.of("a-key-of-mine", None)) as server:
        with pytest.raises(openai.AuthenticationError):
            client_of(server).models.list()
        assert [m.id for m in client_of(server, "a-key-of-mine").models.list()] == ["bundled"]


def test_the_asynchronous_client_too(server: Live):
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="x") as client:
            made = await client.videos.create(prompt="x", input_reference=("a.png", png()))
            return (await client.videos.retrieve(made.id)).status

    assert asyncio.run(ask()) == "queued"
