"""What happens with the form: it is sent, filled from videos and presets, and helped along."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from recurvid.errors import InputError
from recurvid.generation.request import GenerationRequest
from recurvid.gui import form
from recurvid.gui.batch_box import queue_all
from recurvid.gui.create_tab import CreateTab, preset_choices, submit
from recurvid.gui.page import BUSY, QUIET, Page, Visitor, inform, told, warn
from recurvid.gui.presets import check_name
from recurvid.gui.replay import request_in
from recurvid.gui.tabs import Tabs, Updates
from recurvid.video.pictures import MAX_PIXELS, load_picture


def on_form(page: Page, tabs: Tabs) -> None:
    """Bind everything around the form."""
    _on_pictures(page, tabs.create)
    _on_submit(page, tabs)
    _on_batch(page, tabs)
    _on_settings(page, tabs.create)
    _on_presets(page, tabs.create)
    _on_vision(page, tabs.create)


def _on_pictures(page: Page, create: CreateTab) -> None:
    limits = page.store.limits

    def look(picture: str | None, request: gr.Request) -> Any:
        """Refuse at once what would be refused when the job is queued."""

        def run() -> Any:
            if picture:
                limits.check_upload(Path(picture).stat().st_size)
                load_picture(picture, max_pixels=min(limits.pixels, MAX_PIXELS))
            return gr.skip()

        return told(page.visitor(request), run, None)

    for field in (create.picture, create.end_picture):
        field.upload(look, field, field, **QUIET)


def _on_submit(page: Page, tabs: Tabs) -> None:
    create = tabs.create

    def work(request: gr.Request, editing: str, *values: Any) -> Updates:
        visitor = page.visitor(request)

        def run() -> Updates:
            submit(page, visitor, tabs.wish(values), editing)
            inform(visitor, "saved" if editing else "queued")
            back = {tabs.tabs: gr.Tabs(selected="queue")} if editing else {}
            return {**back, **tabs.stop_editing(), tabs.shown: ""}

        return told(visitor, run, {tabs.shown: gr.skip()})

    create.generate.click(work, [tabs.editing, *tabs.form], tabs.keeps, **QUIET)
    create.stop_editing.click(lambda: tabs.stop_editing(), None, tabs.keeps, **QUIET)


def _on_batch(page: Page, tabs: Tabs) -> None:
    def batch(request: gr.Request, files: list[str] | None, *values: Any) -> Any:
        visitor = page.visitor(request)
        if not files:
            warn(visitor, visitor.language("batch.none"))
            return gr.skip()
        added, refused = queue_all(page, visitor, files, tabs.wish(values))
        if added:
            inform(visitor, "batch.done", n=added)
        if refused:
            warn(visitor, visitor.language("batch.refused", n=len(refused), reason=refused[0]))
        return None if added else gr.skip()

    box = tabs.batch
    box.start.click(batch, [box.files, *tabs.form], box.files, **QUIET)
    box.folder.upload(lambda files: files, box.folder, box.files, **QUIET)


def _on_settings(page: Page, create: CreateTab) -> None:
    fields = create.fields

    def replay(file: str | None, request: gr.Request) -> Any:
        if file is None:
            return [gr.skip()] * (len(fields) + 1)
        shown = _into_form(page, request, lambda _: request_in(Path(file)), "replay.done")
        return [None, *shown]

    def apply(name: str, request: gr.Request, *values: Any) -> Any:
        def make(visitor: Visitor) -> GenerationRequest:
            return page.presets.apply(check_name(name), form.request_from(values), visitor.owner)

        return _into_form(page, request, make, "settings.loaded")

    create.replay.upload(replay, create.replay, [create.replay, *fields], **QUIET)
    create.preset_apply.click(apply, [create.preset, *fields], fields, **QUIET)
    # What the video shows stays; the drawer is what is put back.
    drawer = [name for name in form.names() if name not in form.MAIN_FIELDS]
    usual = dict(zip(form.names(), form.shown(GenerationRequest()), strict=True))
    put_back = [create.field(name) for name in drawer]
    create.reset.click(lambda: [usual[name] for name in drawer], None, put_back, **QUIET)
    seed = create.field("seed")
    create.new_seed.click(lambda: str(secrets.randbelow(2**31)), None, seed, **QUIET)


def _into_form(
    page: Page, request: gr.Request, make: Callable[[Visitor], GenerationRequest], say: str
) -> list[Any]:
    """The form's fields with the request that ``make`` finds, said with the word ``say``."""
    visitor = page.visitor(request)

    def run() -> list[Any]:
        shown = form.shown(make(visitor))
        inform(visitor, say)
        return shown

    return told(visitor, run, [gr.skip()] * len(form.controls()))


def _on_presets(page: Page, create: CreateTab) -> None:
    def save(name: str, request: gr.Request, *values: Any) -> Any:
        visitor = page.visitor(request)

        def run() -> list[Any]:
            kept = page.presets.save(name or "", form.request_from(values), visitor.owner)
            inform(visitor, "preset.saved")
            return [gr.update(choices=preset_choices(page, visitor), value=kept), ""]

        return told(visitor, run, [gr.skip(), gr.skip()])

    def delete(name: str, request: gr.Request) -> Any:
        visitor = page.visitor(request)

        def run() -> Any:
            page.presets.delete(check_name(name), visitor.owner)
            return gr.update(choices=preset_choices(page, visitor), value="usual")

        return told(visitor, run, gr.skip())

    outputs = [create.preset, create.preset_name]
    create.preset_save.click(save, [create.preset_name, *create.fields], outputs, **QUIET)
    create.preset_delete.click(delete, create.preset, create.preset, **QUIET)


def _on_vision(page: Page, create: CreateTab) -> None:
    vision = page.vision
    if vision is None:
        return

    def write(picture: str | None, request: gr.Request) -> Any:
        visitor = page.visitor(request)

        def run() -> str:
            if not picture:
                raise InputError("add a start picture first", "picture.need")
            return vision.prompt_for(Path(picture), visitor.language("help.instruction"))

        return told(visitor, run, gr.skip())

    create.vision.click(write, create.picture, create.field("prompt"), **BUSY)
