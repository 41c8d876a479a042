"""The queue as its users see it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image
from tests.jobs.queues import Disk, a_store, add, png

from recurvid.errors import (
    CheckpointError,
    InputError,
    JobError,
    JobStateError,
    LimitError,
    PictureError,
    RequestError,
    UnknownJobError,
)
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.claims import Claims
from recurvid.jobs.cleaning import clean
from recurvid.jobs.database import Database
from recurvid.jobs.failures import disk_is_full
from recurvid.jobs.queries import clean_title
from recurvid.jobs.states import HowToRun, JobProgress, JobState
from recurvid.jobs.store import JobStore

WEB = ("store", "limits", "access", "states", "supervisor", "cleaning", "worker")


def test_the_web_process_needs_no_torch():
    lines = [f"import recurvid.jobs.{name}" for name in WEB]
    lines += ["import sys", "sys.exit(bool({'torch', 'av', 'gradio', 'fastapi'} & {*sys.modules}))"]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False).returncode == 0


def test_a_job_is_kept_as_it_was_asked(own_home: Path):
    request = GenerationRequest(prompt="a walk", seconds=1.5, seed=7)
    how = HowToRun(device="cpu", vram=6.0)
    made = a_store(own_home).add(
        request, png(), end_picture=png(seed=1), owner="key-1", how=how, title="C:\\x\\walk.png"
    )
    (found,) = a_store(own_home).list()
    assert found == made
    assert (found.request, found.how, found.owner, found.title) == (
        request, how, "key-1", "walk.png",
    )  # fmt: skip
    assert found.state is JobState.QUEUED
    assert found.has_end_picture
    assert found.progress == JobProgress()
    assert found.width is None


def test_pictures_are_kept_as_pixels_only(own_home: Path, tmp_path: Path):
    image = Image.open(_with_exif(tmp_path))
    store = a_store(own_home)
    job = store.add(GenerationRequest(), tmp_path / "x.jpg")
    kept = Image.open(store.picture(job.id))
    assert kept.format == "PNG"
    assert not kept.getexif()
    assert "secret" not in store.picture(job.id).read_bytes().decode("latin-1")
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(image.convert("RGB")))


def _with_exif(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    Image.open(_file(folder, png())).save(folder / "x.jpg", exif=exif)
    return folder / "x.jpg"


def _file(folder: Path, data: bytes) -> Path:
    (folder / "given").write_bytes(data)
    return folder / "given"


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", png()[:60], b"\0" * 5000, b"<svg/>"])
def test_broken_pictures_are_refused_and_leave_nothing(own_home: Path, data: bytes):
    store = a_store(own_home)
    with pytest.raises(PictureError) as caught:
        store.add(GenerationRequest(), data)
    assert str(own_home) not in str(caught.value)
    assert str(caught.value).startswith("picture: ")
    assert "\n" not in str(caught.value)
    assert list(store.folders.root.iterdir()) == []
    assert store.list() == []


def test_a_broken_end_picture_is_named(own_home: Path):
    store = a_store(own_home)
    with pytest.raises(PictureError, match=r"^end_picture: "):
        store.add(GenerationRequest(), png(), end_picture=b"x")
    assert list(store.folders.root.iterdir()) == []


def test_a_picture_path_that_is_none(own_home: Path, tmp_path: Path):
    with pytest.raises(PictureError, match="no such file"):
        a_store(own_home).add(GenerationRequest(), tmp_path)


@pytest.mark.parametrize(
    ("limits", "request_", "code"),
    [
        ({"upload_bytes": 100}, {}, "upload_too_large"),
        ({"seconds": 2}, {"seconds": 2.1}, "too_long"),
        ({"frames": 100}, {"seconds": 1.0, "fps": 101.0}, "too_long"),
        ({"steps": 10}, {"steps": 11}, "too_many_steps"),
        ({"video_pixels": 64 * 64}, {"size": "96"}, "video_too_large"),
        ({"queue_length": 0}, {}, "queue_full"),
        ({"jobs_per_owner": 0}, {}, "too_many_jobs"),
    ],
)
def test_limits_are_kept(own_home: Path, limits: dict, request_: dict, code: str):
    store = a_store(own_home, **limits)
    with pytest.raises(LimitError) as caught:
        store.add(GenerationRequest(**request_), png())
    assert caught.value.code == code
    assert list(store.folders.root.iterdir()) == []


def test_a_picture_with_too_many_pixels_is_not_decoded(own_home: Path):
    with pytest.raises(PictureError, match="megapixels"):
        a_store(own_home, pixels=24 * 16 - 1).add(GenerationRequest(), png())
    a_store(own_home, pixels=24 * 16).add(GenerationRequest(), png())


@pytest.mark.parametrize("side", [7800, 20_000, 2**31 - 1])  # the last two are above Pillow's line
def test_the_limit_that_is_said_is_the_one_that_holds(own_home: Path, side: int):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compress(bytes(99)))
    with pytest.raises(PictureError, match="above 60 megapixels"):
        a_store(own_home).add(GenerationRequest(), bomb)


def test_jobs_per_owner_count_what_is_active(own_home: Path):
    store = a_store(own_home, jobs_per_owner=2)
    first = add(store, owner="a")
    add(store, owner="a")
    add(store, owner="b")
    with pytest.raises(LimitError, match="this key has 2 jobs"):
        add(store, owner="a")
    store.cancel(first.id)
    add(store, owner="a")
    with pytest.raises(LimitError):
        store.resume(first.id)


def test_an_unknown_model_is_refused(own_home: Path):
    with pytest.raises(RequestError, match="model"):
        a_store(own_home).add(GenerationRequest(model="nothing"), png())


def test_a_model_that_is_not_here_is_said_at_once(own_home: Path):
    with pytest.raises(CheckpointError, match="recurvid models get framepack"):
        a_store(own_home).add(GenerationRequest(model="framepack"), png())


def test_a_full_disk_takes_no_uploads_and_pauses(own_home: Path):
    store = a_store(own_home, free=10**9 - 1)
    add(store)  # there is room for a picture
    assert Claims(store).take("cpu") is None
    state = store.queue_state()
    assert state.paused
    assert "1000 MB free" in str(state.reason)
    with pytest.raises(LimitError) as caught:
        add(a_store(own_home, free=10**8))
    assert caught.value.code == "disk_full"
    roomy = a_store(own_home)
    assert not roomy.queue_state().paused
    assert Claims(roomy).take("cpu") is not None


def test_a_disk_without_a_byte_is_said(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    store = a_store(own_home)
    job = add(store)
    with store.database.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connect = store.database._connect

    def connect_to_a_full_disk():
        connection = connect()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    store.close()
    monkeypatch.setattr(store.database, "_connect", connect_to_a_full_disk)
    with pytest.raises(LimitError) as caught:
        [add(store, GenerationRequest(prompt="x" * 5000)) for _ in range(500)]
    assert caught.value.code == "disk_full"
    assert disk_is_full(caught.value)
    assert store.get(job.id) == job
    folders = {path.name for path in store.folders.root.iterdir()}
    assert folders == {found.id for found in store.list(limit=1000)}  # nothing half-made

    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recurvid.durable.os.replace", full)
    with pytest.raises(LimitError) as caught:
        add(a_store(own_home))
    assert caught.value.code == "disk_full"
    assert {path.name for path in store.folders.root.iterdir()} == folders


def test_others_jobs_do_not_exist(own_home: Path):
    store = a_store(own_home)
    job = add(store, owner="a")
    calls = [
        lambda: store.get(job.id, "b"),
        lambda: store.cancel(job.id, "b"),
        lambda: store.resume(job.id, ""),
        lambda: store.delete(job.id, "b"),
        lambda: store.duplicate(job.id, "b"),
        lambda: store.edit(job.id, GenerationRequest(), owner="b"),
        lambda: store.move(job.id, None, "b"),
        lambda: store.list(owner="b", after=job.id),
    ]
    unknown = "video_" + "0" * 32
    with pytest.raises(UnknownJobError) as missing:
        store.get(unknown, "b")
    for call in calls:
        with pytest.raises(UnknownJobError) as caught:
            call()
        # The same words as for a job that never was.
        assert str(caught.value) == str(missing.value).replace(unknown, job.id)
    assert store.list(owner="b") == store.queue("b") == store.events(owner="b") == []
    assert store.get(job.id, "a").state is JobState.QUEUED
    own = add(store, owner="b")
    with pytest.raises(UnknownJobError):
        store.move(own.id, job.id, "b")


@pytest.mark.parametrize("id", ["", "..", "../../etc", "video_" + "0" * 31, "video_" + "G" * 32])
def test_names_that_are_no_jobs_reach_no_file(own_home: Path, id: str):
    store = a_store(own_home)
    for ask in (store.get, store.picture, store.video, store.so_far, store.preview, store.cancel):
        with pytest.raises(UnknownJobError):
            ask(id)


def test_edit_is_for_jobs_that_have_not_begun(own_home: Path):
    store = a_store(own_home, seconds=5)
    job = add(store)
    edited = store.edit(job.id, GenerationRequest(seed=3), HowToRun(device="cpu"), title="new")
    assert (edited.request.seed, edited.how.device, edited.title) == (3, "cpu", "new")
    assert edited.revision > job.revision
    with pytest.raises(LimitError):
        store.edit(job.id, GenerationRequest(seconds=6.0))
    claim = Claims(store).take("cpu")
    assert claim is not None
    with pytest.raises(JobStateError):
        store.edit(job.id, GenerationRequest(seed=4))
    Claims(store).stopped(claim)
    store.cancel(job.id)
    store.resume(job.id)
    with pytest.raises(JobStateError):  # queued, but what it has made belongs to seed 3
        store.edit(job.id, GenerationRequest(seed=4))


def test_a_duplicate_is_a_new_job(own_home: Path):
    store = a_store(own_home)
    job = store.add(GenerationRequest(seed=5), png(), end_picture=png(seed=1), owner="a", title="t")
    copy = store.duplicate(job.id, "a")
    assert copy.id != job.id
    assert (copy.request, copy.owner, copy.title, copy.has_end_picture) == (
        job.request, "a", "t", True,
    )  # fmt: skip
    assert store.picture(copy.id).read_bytes() == store.picture(job.id).read_bytes()
    store.delete(job.id)
    assert store.picture(copy.id).is_file()


def test_delete_removes_all_of_it(own_home: Path):
    store = a_store(own_home)
    job = add(store, owner="a")
    number = store.last_event()
    store.delete(job.id, "a")
    assert list(store.folders.root.iterdir()) == []
    assert store.list() == []
    (event,) = store.events(number, owner="a")
    assert (event.job_id, event.kind, event.data) == (job.id, "state", {"state": "deleted"})
    assert store.events(job_id=job.id) == [event]


def test_a_running_job_is_not_deleted(own_home: Path):
    store = a_store(own_home)
    job = add(store)
    claim = Claims(store).take("cpu")
    assert claim is not None
    with pytest.raises(JobStateError, match="cancel it first"):
        store.delete(job.id)
    store.cancel(job.id)
    Claims(store).stopped(claim)
    store.delete(job.id)


def test_a_link_in_place_of_a_folder_is_not_followed(own_home: Path, tmp_path: Path):
    store = a_store(own_home)
    job = add(store)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder = store.folders.of(job.id)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(precious)
    store.delete(job.id)
    assert (precious / "file").exists()
    assert not folder.is_symlink()


def test_pages_of_a_list(own_home: Path):
    store = a_store(own_home)
    ids = [add(store, owner="ab"[i % 2]).id for i in range(5)]
    assert [job.id for job in store.list(newest_first=False)] == ids
    assert [job.id for job in store.list(limit=2)] == ids[:2:-1]
    assert [job.id for job in store.list(after=ids[3], limit=2)] == [ids[2], ids[1]]
    assert [job.id for job in store.list(owner="a", after=ids[4])] == [ids[2], ids[0]]
    assert [job.id for job in store.list(after=ids[3], newest_first=False)] == [ids[4]]
    store.cancel(ids[1])
    assert [job.id for job in store.list(states=[JobState.CANCELLED])] == [ids[1]]
    assert store.list(states=[]) == []
    assert store.counts()[JobState.QUEUED] == 4


def test_moving_among_ones_own_delays_nobody_else(own_home: Path):
    store = a_store(own_home)
    a0, b0, a1, b1, a2 = (add(store, owner=o).id for o in "ababa")
    store.move(a2, a0, "a")
    assert [job.id for job in store.queue()] == [a2, b0, a0, b1, a1]
    store.move(a2, None, "a")
    assert [job.id for job in store.queue()] == [a0, b0, a1, b1, a2]
    store.move(b1, a0)
    assert [job.id for job in store.queue()] == [b1, a0, b0, a1, a2]
    assert [job.id for job in store.queue("a")] == [a0, a1, a2]
    store.move(a0, a0)
    store.cancel(a0)
    for id, before in ((a0, None), (a1, a0)):
        with pytest.raises(JobStateError):
            store.move(id, before)


def test_events_can_be_picked_up_anywhere(own_home: Path):
    store, claims = a_store(own_home), None
    job = add(store)
    claims = Claims(store)
    claim = claims.take("cpu")
    assert claim is not None
    for step in range(40):
        claims.progress(claim, JobProgress("denoise", 0, 2, step, 40))
    claims.progress(claim, JobProgress("decode", 0, 2), "section", section=0, sections=2, frames=9)
    events = store.events(job_id=job.id)
    assert [event.kind for event in events] == ["state", "state", "progress", "section"]
    assert [event.number for event in events] == sorted({event.number for event in events})
    assert events[2].data["phase"] == "decode"
    middle = events[1].number
    assert store.events(middle) == events[2:]
    assert store.events(limit=2) == events[:2]
    assert store.last_event() == events[-1].number
    assert store.events(store.last_event()) == []


def test_folders_are_for_their_user_only(own_home: Path):
    store = a_store(own_home)
    job = add(store)
    for folder in (own_home, store.folders.root, store.folders.of(job.id)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in own_home.glob("jobs.sqlite3*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_queue_of_a_later_version_is_left_alone(own_home: Path):
    store = a_store(own_home)
    with store.database.writing() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="later version"):
        JobStore(own_home)


def test_a_file_that_is_no_database(own_home: Path):
    own_home.mkdir()
    (own_home / "jobs.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(JobError, match="cannot be opened"):
        JobStore(own_home)


def test_no_room_for_the_queue_is_said(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    def no_room(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Database, "_prepare", no_room)
    with pytest.raises(JobError, match="disk I/O error"):
        a_store(own_home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**9, 4096))
    with pytest.raises(JobError, match="cannot be opened: the disk is full; make room"):
        a_store(own_home)


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\nb\x1b[31m\u202e.png", "a b [31m .png"),
        ("", "the prompt"),
        ("x" * 500, "x" * 120),
        ("\ud800", "?"),
        ("///", "video"),
    ],
)
def test_titles(title: str, clean: str):
    assert clean_title(title, "the prompt") == clean


@pytest.mark.parametrize(
    "how",
    [{"device": ""}, {"dtype": 3}, {"vram": 0}, {"vram": float("nan")}, {"vram": True},
     {"compiled": 1}, {"attention": "a\nb"}, {"weights": "x" * 50}],
)  # fmt: skip
def test_how_to_run_is_checked(how: dict):
    with pytest.raises(InputError):
        HowToRun.from_json(how)
    with pytest.raises(InputError, match="unknown"):
        HowToRun.from_json({"unknown": 1})


def _ended(store: JobStore, state: JobState, ended: float, size: int) -> str:
    id = add(store).id
    folder = store.folders.of(id)
    (folder / "session").mkdir()
    (folder / "session" / "0000").write_bytes(b"x" * size)
    (folder / "session" / "so_far.mp4").write_bytes(b"so far")
    if state is JobState.DONE:
        (folder / "video.mp4").write_bytes(b"video")
    with store.database.writing() as connection:
        connection.execute(
            "UPDATE jobs SET state = ?, finished_at = ? WHERE id = ?", (state, ended, id)
        )
    return id


def test_old_sessions_go_and_videos_stay(own_home: Path):
    store = a_store(own_home, keep_sessions_days=7, keep_sessions_bytes=250)
    day = 86_400.0
    old = _ended(store, JobState.DONE, 1 * day, 10)
    big = _ended(store, JobState.CANCELLED, 3.1 * day, 100)
    small = _ended(store, JobState.FAILED, 3.2 * day, 100)
    new = _ended(store, JobState.DONE, 9 * day, 100)
    waiting = _ended(store, JobState.INTERRUPTED, 0.0, 10_000)
    queued = _ended(store, JobState.QUEUED, 0.0, 10_000)
    assert clean(store, now=10 * day) == [old, big]
    assert clean(store, now=10 * day) == []
    for id in (small, new, waiting, queued):
        assert (store.folders.of(id) / "session" / "0000").is_file()
    for id in (old, big):
        assert not (store.folders.of(id) / "session").exists()
    video, so_far = store.video(old), store.so_far(big)
    assert video is not None
    assert so_far is not None
    assert video.read_bytes() == b"video"
    assert so_far.read_bytes() == b"so far"
    assert not list(store.folders.root.glob(".*"))


def test_what_kills_leave_is_swept_but_no_video(own_home: Path):
    store = a_store(own_home)
    root = store.folders.root
    keep = add(store).id
    names = {
        ".new-video_" + "1" * 32: "picture.png",
        "video_" + "2" * 32: "picture.png",
        "video_" + "3" * 32: "video.mp4",
        "mine": "picture.png",
    }
    for name, file in names.items():
        (root / name).mkdir()
        (root / name / file).touch()
    clean(store)
    assert len(list(root.iterdir())) == 5  # young: somebody may be at it
    for path in root.iterdir():
        os.utime(path, (0, 0))
    clean(store)
    assert {path.name for path in root.iterdir()} == {keep, "video_" + "3" * 32, "mine"}
