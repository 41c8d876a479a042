"""What the page sends to a browser: only panels that look different now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

import gradio as gr
from tests.gui.jobs import PICTURE, put

from recurvid.generation.request import GenerationRequest
from recurvid.gui.app import build
from recurvid.gui.downloads import Downloads
from recurvid.gui.gate import Sessions
from recurvid.gui.machine import Machine
from recurvid.gui.page import Page
from recurvid.gui.presets import Presets
from recurvid.jobs.access import Access
from recurvid.jobs.states import JobProgress, JobState
from recurvid.jobs.store import JobStore

PANELS = ("header", "stage", "queue", "history", "models", "kernels", "attention")
MIDWAY = JobProgress("denoise", 1, 2, 3, 12, 25, 60, 75.0, (0,))


class Browser(gr.Request):
    """Somebody who reads Chinese."""

    def __init__(self):
        self.headers = {"accept-language": "zh"}
        self.cookies: dict[str, str] = {}


class Watcher:
    """One session of the page, as its timer serves it."""

    def __init__(self, page: Page):
        found = build(page).fns.values()
        self._fresh: Any = next(f.fn for f in found if getattr(f.fn, "__name__", "") == "fresh")
        self._seen: dict[str, Any] = {}

    def tick(self) -> set[str]:
        """The names of the panels that are sent this time."""
        *updates, seen = self._fresh("", "", 24, self._seen, Browser())
        if seen != gr.skip():
            self._seen = seen
        assert len(updates) == len(PANELS)
        return {n for n, update in zip(PANELS, updates, strict=True) if update != gr.skip()}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(
        store=JobStore(tmp_path / "home"),
        sessions=Sessions(Access()),
        presets=Presets(tmp_path / "presets.json"),
        downloads=Downloads(),
        machine=Machine(lambda _: {}),
    )


def test_what_has_not_changed_is_not_sent(page: Page):
    watcher = Watcher(page)
    assert watcher.tick() == {*PANELS} - {"attention"}
    assert watcher.tick() == set()
    job = page.store.add(GenerationRequest(), PICTURE)
    assert watcher.tick() == {"header", "stage", "queue"}
    assert watcher.tick() == set()
    put(page.store, job, JobState.RUNNING, progress=MIDWAY)
    assert watcher.tick() == {"header", "stage", "queue"}
    put(page.store, job, JobState.RUNNING, progress=replace(MIDWAY, step=4))
    assert watcher.tick() == {"stage"}, "a step changes nothing else"
    put(page.store, job, JobState.RUNNING, progress=replace(MIDWAY, step=4, seconds_left=74.0))
    assert watcher.tick() == set(), "nor does a second less"
    put(page.store, job, JobState.DONE)
    assert watcher.tick() == {"header", "stage", "queue", "history"}


def test_a_second_page_sees_it_too(page: Page):
    first, second = Watcher(page), Watcher(page)
    assert first.tick() == second.tick() == {*PANELS} - {"attention"}
    page.store.add(GenerationRequest(), PICTURE)
    assert first.tick() == second.tick() == {"header", "stage", "queue"}
