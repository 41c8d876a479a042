"""What the buttons of jobs do: on the stage, in the queue, in the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from recurvid.gui import how_form, lists, stage
from recurvid.gui.page import QUIET, Page, Visitor, inform, told
from recurvid.gui.tabs import Tabs, Updates
from recurvid.jobs.states import Job

_MORE = 24


def on_clicks(page: Page, tabs: Tabs) -> None:
    """Bind the clicks on our own HTML."""
    outputs = [*tabs.lists, *tabs.keeps, *tabs.form]

    def act(
        event: gr.EventData, request: gr.Request, shown: str, limit: int, seen: dict[str, Any]
    ) -> Updates:
        visitor = page.visitor(request)
        do, id = said(event)
        found = told(visitor, lambda: _act(page, visitor, tabs, do, id), {})
        shown = found.get(tabs.shown, shown)
        limit = limit + _MORE if do == "more" else limit
        drawn = _drawn(page, visitor, shown, limit)
        panels = dict(zip(drawn, tabs.lists, strict=True))
        # The timer alone says what was seen: it comes after, and sends what a late answer undid.
        changed = {panels[name]: html for name, html in drawn.items() if seen.get(name) != html}
        return {**found, tabs.limit: limit, **changed}

    asked = [tabs.shown, tabs.limit, tabs.seen]
    for panel in tabs.lists:
        panel.act(act, asked, outputs, trigger_mode="multiple", **QUIET)


def said(event: gr.EventData) -> tuple[str, str]:
    """What a button of ours does, and to which job or model."""
    return str(getattr(event, "do", "")), str(getattr(event, "id", ""))


def _drawn(page: Page, visitor: Visitor, shown: str, limit: int) -> dict[str, str]:
    """The lists after a click, without waiting for the timer; in the order of ``Tabs.lists``."""
    store, owner, language = page.store, visitor.owner, visitor.language
    job = stage.shown_job(store, owner, shown)
    return {
        "stage": stage.stage(store, job, language),
        "queue": lists.queue(store, owner, language),
        "history": lists.history(store, owner, language, limit),
    }


def _act(page: Page, visitor: Visitor, tabs: Tabs, do: str, id: str) -> Updates:
    """Do what a button says; returns what changes beside the lists."""
    store, owner = page.store, visitor.owner
    to_create = {tabs.tabs: gr.Tabs(selected="create")}
    match do:
        case "cancel":
            store.cancel(id, owner)
        case "resume":
            store.resume(id, owner)
            return {**to_create, tabs.shown: id}
        case "delete":
            store.delete(id, owner)
        case "duplicate":
            store.duplicate(id, owner)
            inform(visitor, "queued")
        case "up" | "down":
            store.move(id, lists.neighbour(store, owner, id, do), owner)
        case "show":
            return {**to_create, tabs.shown: store.get(id, owner).id}
        case "use":
            job = store.get(id, owner)
            inform(visitor, "settings.loaded")
            return {**to_create, **tabs.stop_editing(), **_filled(page, tabs, job)}
        case "edit":
            job = store.get(id, owner)
            return {**to_create, **_filled(page, tabs, job), **tabs.edit(job.id)}
        case _:
            pass
    return {}


def _filled(page: Page, tabs: Tabs, job: Job) -> Updates:
    """The form with everything that a job was asked for."""
    create, store = tabs.create, page.store
    end = store.end_picture(job.id)
    how = dict(zip(create.how, how_form.shown(job.how), strict=True))
    # An attention kernel that this page has not looked up yet would be no choice of the list.
    kernel = create.how[0]
    if how[kernel] not in ("auto", "sdpa", *page.machine.kernels()):
        how[kernel] = "auto"
    return {
        **create.filled(job.request),
        **how,
        create.picture: _opened(store.picture(job.id)),
        create.end_picture: _opened(end) if end else None,
    }


def _opened(path: Path) -> Image.Image:
    # A path outside Gradio's own folder would not be served; the pixels are.
    with Image.open(path) as image:
        return image.convert("RGB")
