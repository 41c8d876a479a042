"""Jobs that are real sessions of the bundled model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.jobs.queues import a_store, png, wait_for

from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.claims import Claims
from recurvid.jobs.executor import HERE, Looked, Planned, load_executor
from recurvid.jobs.session_executor import animation
from recurvid.jobs.states import JobState
from recurvid.jobs.store import JobStore
from recurvid.jobs.supervisor import Supervisor
from recurvid.jobs.worker import LEFT, Worker
from recurvid.video.metadata import read_metadata

pytestmark = pytest.mark.e2e

S = JobState
STEPS = 10  # a section takes long enough to be killed in
REQUEST = GenerationRequest(prompt="pan left", seconds=4.0, size="48x32", steps=STEPS, seed=5)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that lies on its side, as telephones write them."""
    path = tmp_path_factory.mktemp("picture") / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(BUNDLED_FOLDER / "example.jpg") as image:
        image.reduce(4).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def by_command(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same request on the command line, without a stop."""
    folder = tmp_path_factory.mktemp("command")
    asked = ["--prompt", "pan left", "--seconds", "4.0", "--size", "48x32"]
    asked += ["--steps", str(STEPS)]
    command = [sys.executable, "-m", "recurvid", "generate", str(picture), *asked, "--seed", "5"]
    out = ["--out", str(folder / "out.mp4"), "--session", str(folder / "session"), "--quiet"]
    subprocess.run([*command, *out], check=True, env=os.environ | {"RECURVID_HOME": str(folder)})
    return (folder / "out.mp4").read_bytes()


def made(store: JobStore, id: str) -> bytes:
    path = store.video(id)
    assert path is not None, store.get(id)
    return path.read_bytes()


def test_a_killed_job_has_the_bits_of_the_command(own_home: Path, picture: Path, by_command: bytes):
    store = a_store(own_home)
    id = store.add(REQUEST, picture.read_bytes()).id
    with Supervisor(own_home, ("cpu",)) as supervisor:
        wait_for(lambda: store.get(id).progress.done_sections)
        wait_for(lambda: store.get(id).progress.phase in ("denoise", "write"))
        assert store.get(id).progress.phase == "denoise", "too fast to be killed in mid-job"
        pid = supervisor.workers()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: store.get(id).state is S.INTERRUPTED)
        so_far = store.so_far(id)
        assert so_far is not None
        assert so_far.stat().st_size > 0
        wait_for(lambda: store.get(id).state is S.DONE)
    assert made(store, id) == by_command
    job = store.get(id)
    assert job.attempts == 2
    assert (job.width, job.height, job.plan and job.plan.frames) == (48, 32, 48)
    events = store.events(job_id=id)
    sections = [event.data["section"] for event in events if event.kind == "section"]
    assert sections == sorted(set(sections))
    video = store.video(id)
    assert video is not None
    found = read_metadata(video)
    assert found is not None
    assert found["request"]["prompt"] == "pan left"
    assert str(own_home) not in json.dumps(found)
    for still, kind in ((store.thumbnail(id), "WEBP"), (store.sheet(id), "JPEG")):
        assert still is not None
        with Image.open(still) as image:
            assert image.format == kind
            image.load()


def test_a_worker_in_this_process(own_home: Path):
    """Previews move, the plan tells the timeline, and stopping keeps the finished section."""
    store = a_store(own_home)
    id = store.add(REQUEST, png(), end_picture=png(seed=1)).id
    claims = Claims(store)
    claim = claims.take("cpu")
    assert claim is not None
    executor = load_executor(HERE, "cpu")
    reports = executor.run(claim.job, store.folders.of(id))
    first = next(reports)
    assert isinstance(first, Planned)
    spans = first.plan.spans
    assert [span.stop - span.start for span in spans] == [36] * len(spans)
    assert min(span.start for span in spans) == 1  # frame 0 is the picture
    look = next(report for report in reports if isinstance(report, Looked))
    (own_home / "look.webp").write_bytes(look.picture)
    with Image.open(own_home / "look.webp") as image:
        assert image.format == "WEBP"
        assert getattr(image, "n_frames", 1) > 1
    reports.close()
    claims.stopped(claim)
    again = claims.take("cpu")
    assert again is not None
    assert Worker(store, "cpu").do(again, executor) == LEFT
    assert store.get(id).state is S.DONE


def test_changed_weights_are_said(own_home: Path):
    store = a_store(own_home)
    id = store.add(REQUEST, png()).id
    claims, executor = Claims(store), load_executor(HERE, "cpu")
    claim = claims.take("cpu")
    assert claim is not None
    reports = executor.run(claim.job, store.folders.of(id))
    next(report for report in reports if isinstance(report, Looked))
    reports.close()
    claims.stopped(claim)
    path = store.folders.of(id) / "session" / "fingerprint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "0" * 16}))
    again = claims.take("cpu")
    assert again is not None
    assert Worker(store, "cpu").do(again, executor) == LEFT
    job = store.get(id)
    assert (job.state, job.error_code) == (S.FAILED, "session_error")
    assert "code (0000000000000000 -> " in str(job.error)
    assert "duplicate the job" in str(job.error)
    assert str(own_home) not in str(job.error)
    assert "/" not in str(job.error)


def test_what_the_model_cannot_do_fails_with_its_reason(own_home: Path):
    store = a_store(own_home)
    id = store.add(REQUEST.but(schedule="f1k1_x_g9_f1k1f2k2f16k4+D_td"), png()).id
    claim = Claims(store).take("cpu")
    assert claim is not None
    assert Worker(store, "cpu").do(claim, load_executor(HERE, "cpu")) == LEFT
    job = store.get(id)
    assert (job.state, job.error_code) == (S.FAILED, "invalid_request")
    assert "schedule" in str(job.error)


def test_looks_are_small_animations():
    frames = torch.randint(0, 256, (9, 64, 96, 3), dtype=torch.uint8)
    assert animation(frames, 100)[:4] == b"RIFF"
    assert animation(frames[:1], 100)[:4] == b"RIFF"
