"""The server as its users meet it: the bundled model, OpenAI's client, and kill -9 in mid-job."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.test_serve_process import serving

from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import BUNDLED_FOLDER, status
from recurvid.video.reader import probe

openai = pytest.importorskip("openai")
PRESENT = all(part.path for part in status(KNOWN["bundled"]))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:The Sora API"),
    pytest.mark.skipif(not PRESENT, reason="the bundled weights are not in this checkout"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]
EXAMPLE = BUNDLED_FOLDER / "example.jpg"
QUICK = {"seconds": "4", "size": "96", "extra_body": {"steps": 6}}


def wait(address: str, id: str, states: tuple[str, ...], seconds: float = 240) -> dict[str, Any]:
    until, job = time.monotonic() + seconds, dict[str, Any]()
    while time.monotonic() < until:
        job = httpx.get(f"{address}/api/jobs/{id}").json()
        if job["state"] in states:
            return job
        assert job["state"] not in ("failed", "cancelled"), job
        time.sleep(0.05)
    raise AssertionError(job)


def test_killed_in_mid_job_it_goes_on_to_the_same_bits(tmp_path: Path):
    home = tmp_path / "home"
    with serving(home) as server:
        client = openai.OpenAI(base_url=f"{server['address']}/v1", api_key="unused")
        given = {"prompt": "pan left", "input_reference": EXAMPLE, **QUICK}
        killed = client.videos.create(**given).id
        until, progress = time.monotonic() + 240, dict[str, Any]()
        while time.monotonic() < until:
            progress = httpx.get(f"{server['address']}/api/jobs/{killed}").json()["progress"]
            if progress["done_sections"] and progress["phase"] == "denoise":
                break
            time.sleep(0.05)
        assert len(progress["done_sections"]) < progress["sections"]
        server["process"].send_signal(signal.SIGKILL)
        server["process"].wait(30)
    with serving(home) as server:
        client = openai.OpenAI(base_url=f"{server['address']}/v1", api_key="unused")
        job = wait(server["address"], killed, ("done",))
        assert job["attempts"] == 2
        whole = client.videos.create_and_poll(**given)
        assert whole.status == "completed"
        bits = [client.videos.download_content(id).read() for id in (killed, whole.id)]
        assert bits[0] == bits[1]
        (tmp_path / "video.mp4").write_bytes(bits[0])
        sheet = client.videos.download_content(whole.id, variant="spritesheet").read()
        assert sheet[:2] == b"\xff\xd8"
        assert {video.id for video in client.videos.list()} == {killed, whole.id}
    video = probe(tmp_path / "video.mp4")
    assert (video.frames, float(video.fps)) == (48, 12.0)
    assert f"{video.width}x{video.height}" == whole.size
