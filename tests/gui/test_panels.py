"""What the page draws of jobs: the stage, the timeline, the queue and the history."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from tests.gui.jobs import PICTURE, PLAN, put

from recurvid.generation.request import GenerationRequest
from recurvid.gui import lists
from recurvid.gui.stage import shown_job, stage
from recurvid.gui.timeline import state_of, timeline
from recurvid.gui.words import LANGUAGES
from recurvid.jobs.states import JobProgress, JobState, SectionSpan
from recurvid.jobs.store import JobStore

ENGLISH = LANGUAGES["en"]
MIDWAY = JobProgress("denoise", 1, 2, 3, 12, 25, 60, 75.0, (0,))


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "home")


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_the_timeline_shows_the_end_first(store: JobStore):
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.RUNNING, progress=MIDWAY)
    html = timeline(job, ENGLISH)
    bars = re.findall(r'rv-section rv-(\w+)".*?left:([\d.]+)%;width:([\d.]+)%.*?<b>(\d)', html)
    assert bars == [("done", "60.000", "40.000", "1"), ("running", "0.000", "60.000", "2")]
    assert 'style="width:25.0%"' in html, "3 of 12 steps"
    assert ENGLISH("timeline.inverted") in html
    assert "Section 1: 3.0–5.0 s, done" in html


def test_nothing_is_to_come_before_the_first_section(store: JobStore):
    """The start picture is frame 0 and no section's; a finished video has no gap there."""
    plan = replace(PLAN, spans=(SectionSpan(36, 60), SectionSpan(1, 36)))
    job = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE, plan=plan)
    bars = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", timeline(job, ENGLISH))
    assert bars == [("60.000", "40.000"), ("0.000", "60.000")]


def test_the_timeline_of_a_stopped_and_of_a_finished_job(store: JobStore):
    job = store.add(GenerationRequest(), PICTURE)
    stopped = put(store, job, JobState.CANCELLED, progress=MIDWAY)
    assert [state_of(stopped, number) for number in (0, 1)] == ["done", "todo"]
    finished = put(store, job, JobState.DONE, progress=JobProgress())
    assert [state_of(finished, number) for number in (0, 1)] == ["done", "done"]
    assert timeline(put(store, job, JobState.QUEUED, plan=None), ENGLISH) == ""


def test_the_stage_of_a_running_job(store: JobStore):
    job = store.add(GenerationRequest(prompt="pan left"), PICTURE, title="valley.jpg")
    job = put(
        store, job, JobState.RUNNING, progress=MIDWAY,
        files=("preview.webp", "session/so_far.mp4"),
    )  # fmt: skip
    html = stage(store, job, ENGLISH)
    assert "about 1 min 15 s left" in html
    assert "Section 2 of 2, step 3 of 12" in html
    assert "2.1 s of 5.0 s" in html
    assert f"media/{job.id}/preview?v=" in html
    assert f"media/{job.id}/so-far?v=" in html
    assert 'data-do="cancel"' in html
    assert 'data-do="resume"' not in html


def test_previews_and_videos_are_fetched_anew_only_when_they_change(store: JobStore):
    job = store.add(GenerationRequest(), PICTURE)
    job = put(store, job, JobState.RUNNING, progress=MIDWAY, files=("preview.webp",))

    def source() -> str:
        (found,) = re.findall(r"preview\?v=\w+", stage(store, job, ENGLISH))
        return found

    before = source()
    assert source() == before
    (store.folders.of(job.id) / "preview.webp").write_bytes(b"another")
    assert source() != before


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        (JobState.QUEUED, {"cancel", "use"}), (JobState.INTERRUPTED, {"cancel", "use"}),
        (JobState.RUNNING, {"cancel", "use"}), (JobState.FAILED, {"resume", "use"}),
        (JobState.CANCELLED, {"resume", "use"}), (JobState.DONE, {"use", "duplicate"}),
    ],
)  # fmt: skip
def test_what_can_be_done_in_each_state(store: JobStore, state: JobState, offered: set[str]):
    job = put(store, store.add(GenerationRequest(), PICTURE), state, error="why" * 3)
    html = stage(store, job, ENGLISH)
    assert set(re.findall(r'data-do="(\w+)"', html)) == offered
    assert ENGLISH(f"state.{state.value}") in html
    if state in (JobState.FAILED, JobState.INTERRUPTED):
        assert "whywhywhy" in html


def test_the_stage_shows_what_runs_unless_something_else_was_asked_for(store: JobStore):
    assert shown_job(store, "", "") is None
    first = put(store, store.add(GenerationRequest(), PICTURE), JobState.DONE)
    second = put(store, store.add(GenerationRequest(), PICTURE), JobState.RUNNING)
    third = store.add(GenerationRequest(), PICTURE)
    found = [shown_job(store, "", wanted) for wanted in ("", first.id, "nonsense")]
    assert [job.id for job in found if job] == [second.id, first.id, second.id]
    put(store, second, JobState.DONE)
    assert (shown := shown_job(store, "", "")) is not None
    assert shown.id == third.id
    assert shown_job(store, "someone else", first.id) is None


@pytest.mark.parametrize("looks", range(4))
def test_a_job_may_begin_while_it_is_drawn(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, looks: int
):
    job = store.add(GenerationRequest(), PICTURE)
    answers = [store.queue()] * looks + [[]] * 4
    monkeypatch.setattr(store, "queue", lambda *_: answers.pop(0))
    assert text(ENGLISH("stage.waits.first")) in text(stage(store, job, ENGLISH))


def test_a_full_disk_is_said_at_the_top(tmp_path: Path):
    class Full:
        total, free = 10**9, 10**6

    store = JobStore(tmp_path, disk_usage=lambda _: Full())
    assert "queue is paused" in stage(store, None, ENGLISH)


def test_the_queue_offers_moves_where_they_are_possible(store: JobStore):
    assert "Nothing waits" in lists.queue(store, "", ENGLISH)
    jobs = [store.add(GenerationRequest(), PICTURE, title=f"job {n}") for n in range(3)]
    rows = lists.queue(store, "", ENGLISH).split("<li")[1:]
    up = ["disabled" in row.split('data-do="up"')[1].split(">")[0] for row in rows]
    down = ["disabled" in row.split('data-do="down"')[1].split(">")[0] for row in rows]
    assert (up, down) == ([True, False, False], [False, False, True])
    ids = [job.id for job in jobs]
    assert lists.neighbour(store, "", ids[2], "up") == ids[1]
    assert lists.neighbour(store, "", ids[0], "down") == ids[2]
    assert lists.neighbour(store, "", ids[1], "down") is None


def test_the_history_is_paged_and_keeps_every_setting(store: JobStore):
    request = GenerationRequest(prompt="pan left", steps=3, order="forward", seed=5)
    for _ in range(3):
        put(store, store.add(request, PICTURE), JobState.DONE, files=("video.mp4",))
    store.add(request, PICTURE)
    html = lists.history(store, "", ENGLISH, 2)
    assert html.count("<article") == 2
    assert 'data-do="more"' in html
    html = lists.history(store, "", ENGLISH, 3)
    assert html.count("<article") == 3
    assert 'data-do="more"' not in html
    said = text(html)
    assert all(part in said for part in ("Seed 5", "Steps 3", "Order of sections forward"))


def test_markup_in_titles_and_prompts_is_text(store: JobStore):
    nasty = '<img src=x onerror="1">\'"&'
    request = GenerationRequest(prompt=nasty, negative_prompt=nasty)
    job = put(store, store.add(request, PICTURE, title=nasty), JobState.FAILED, error=nasty)
    drawn = [stage(store, job, ENGLISH), lists.history(store, "", ENGLISH, 9)]
    put(store, job, JobState.QUEUED)
    drawn.append(lists.queue(store, "", ENGLISH))
    for html in drawn:
        assert "<img src=x" not in html
        assert "&lt;img src=x onerror=&quot;1&quot;&gt;" in html


def test_nothing_of_another_owner_is_drawn(store: JobStore):
    job = store.add(GenerationRequest(prompt="secret"), PICTURE, owner="a")
    assert "secret" not in lists.queue(store, "b", ENGLISH)
    put(store, job, JobState.DONE)
    assert "secret" not in lists.history(store, "b", ENGLISH, 9)
    assert shown_job(store, "b", job.id) is None
