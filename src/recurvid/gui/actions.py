"""What happens on the page: buttons, uploads, and the clicks on our own HTML."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from recurvid.errors import InputError
from recurvid.generation.request import GenerationRequest
from recurvid.gui import form, how_form, lists, models_panel, stage
from recurvid.gui.batch_box import BatchBox, queue_all
from recurvid.gui.create_tab import CreateTab, Wish, preset_choices, prompt_help, submit
from recurvid.gui.models_tab import ModelsTab
from recurvid.gui.page import BUSY, QUIET, Page, Visitor, told
from recurvid.gui.presets import check_name
from recurvid.gui.replay import request_in
from recurvid.gui.words import word
from recurvid.jobs.states import Job

Updates = dict[Any, Any]
_MORE = 24


@dataclass(frozen=True)
class Tabs:
    """The page's components, and what a session keeps."""

    tabs: gr.Tabs
    header: gr.HTML
    create: CreateTab
    queue: gr.HTML
    batch: BatchBox
    history: gr.HTML
    models_tab: gr.Tab
    models: ModelsTab
    shown: gr.State
    editing: gr.State
    asked: gr.State
    limit: gr.State
    seen: gr.State

    @property
    def lists(self) -> list[Any]:
        """What shows jobs."""
        return [self.create.stage, self.queue, self.history]

    @property
    def form(self) -> list[Any]:
        """What a user fills in."""
        create = self.create
        return [create.picture, create.end_picture, *create.how, *create.fields]

    @property
    def keeps(self) -> list[Any]:
        """What changes in a session with a click."""
        buttons = [self.create.generate, self.create.stop_editing]
        return [self.tabs, self.shown, self.editing, self.limit, *buttons]


def listen(page: Page, tabs: Tabs) -> None:
    """Bind every event."""
    _on_load(page, tabs)
    _on_submit(page, tabs)
    _on_clicks(page, tabs)
    _on_settings(page, tabs)
    _on_models(page, tabs)


def wish_of(tabs: Tabs, values: tuple[Any, ...]) -> Wish:
    """The form's values, in the order of ``tabs.form``."""
    picture, end, *rest = values
    how = len(tabs.create.how)
    return Wish(picture, end, rest[:how], rest[how:])


def _on_load(page: Page, tabs: Tabs) -> None:
    create = tabs.create
    choosing = [
        (component, control)
        for component, control in zip(create.fields, form.controls(), strict=True)
        if control.choices and control.optional
    ]

    def loaded(request: gr.Request) -> list[Any]:
        visitor = page.visitor(request)
        choices = [
            gr.update(choices=form.dropdown_choices(control, visitor.language))
            for _, control in choosing
        ]
        language = visitor.language
        how = [
            how_form.kernel_choices(page.machine.kernels(), language),
            how_form.weight_choices(language),
            how_form.dtype_choices(language),
        ]
        choices += [gr.update(choices=offered) for offered in how]
        presets = gr.update(choices=preset_choices(page, visitor))
        return [prompt_help(language), presets, *choices]

    attention, weights, _, dtype, _ = create.how
    drops = [*(component for component, _ in choosing), attention, weights, dtype]
    outputs = [create.help, create.preset, *drops]
    gr.on(None, loaded, None, outputs, queue=False, **QUIET)


def _on_submit(page: Page, tabs: Tabs) -> None:
    create = tabs.create

    def work(request: gr.Request, editing: str, *values: Any) -> Updates:
        visitor = page.visitor(request)

        def run() -> Updates:
            submit(page, visitor, wish_of(tabs, values), editing)
            gr.Info(escape(visitor.language("saved" if editing else "queued")), duration=3)
            back = {tabs.tabs: gr.Tabs(selected="queue")} if editing else {}
            return {**back, **_not_editing(tabs), tabs.shown: ""}

        return told(run, {tabs.shown: gr.skip()})

    create.generate.click(work, [tabs.editing, *tabs.form], tabs.keeps, **QUIET)
    create.stop_editing.click(lambda: _not_editing(tabs), None, tabs.keeps, **QUIET)

    def batch(request: gr.Request, files: list[str] | None, *values: Any) -> Any:
        visitor = page.visitor(request)
        if not files:
            gr.Warning(escape(visitor.language("batch.none")))
            return gr.skip()
        added, refused = queue_all(page, visitor, files, wish_of(tabs, values))
        if added:
            gr.Info(escape(visitor.language("batch.done", n=added)), duration=4)
        if refused:
            text = visitor.language("batch.refused", n=len(refused), reason=refused[0])
            gr.Warning(escape(text))
        return None if added else gr.skip()

    tabs.batch.start.click(batch, [tabs.batch.files, *tabs.form], tabs.batch.files, **QUIET)
    tabs.batch.folder.upload(lambda files: files, tabs.batch.folder, tabs.batch.files, **QUIET)


def _not_editing(tabs: Tabs) -> Updates:
    return {
        tabs.editing: "",
        tabs.create.generate: gr.Button(word("generate")),
        tabs.create.stop_editing: gr.Button(visible=False),
    }


def _on_clicks(page: Page, tabs: Tabs) -> None:
    outputs = [*tabs.lists, *tabs.keeps, *tabs.form]

    def act(event: gr.EventData, request: gr.Request, shown: str, limit: int) -> Updates:
        visitor = page.visitor(request)
        do, id = _said(event)
        found = told(lambda: _act(page, visitor, tabs, do, id), {})
        shown = found.get(tabs.shown, shown)
        limit = limit + _MORE if do == "more" else limit
        return {**found, tabs.limit: limit, **_redrawn(page, visitor, tabs, shown, limit)}

    for panel in tabs.lists:
        panel.act(act, [tabs.shown, tabs.limit], outputs, trigger_mode="multiple", **QUIET)


def _said(event: gr.EventData) -> tuple[str, str]:
    """What a button of ours does, and to which job or model."""
    return str(getattr(event, "do", "")), str(getattr(event, "id", ""))


def _redrawn(page: Page, visitor: Visitor, tabs: Tabs, shown: str, limit: int) -> Updates:
    """The lists after a click, without waiting for the timer."""
    store, owner, language = page.store, visitor.owner, visitor.language
    job = stage.shown_job(store, owner, shown)
    return {
        tabs.create.stage: stage.stage(store, job, language),
        tabs.queue: lists.queue(store, owner, language),
        tabs.history: lists.history(store, owner, language, limit),
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
            return {tabs.shown: id}
        case "delete":
            store.delete(id, owner)
        case "duplicate":
            store.duplicate(id, owner)
        case "up" | "down":
            store.move(id, lists.neighbour(store, owner, id, do), owner)
        case "show":
            return {**to_create, tabs.shown: store.get(id, owner).id}
        case "use":
            job = store.get(id, owner)
            gr.Info(escape(visitor.language("settings.loaded")), duration=3)
            return {**to_create, **_not_editing(tabs), **_filled(page, tabs, job)}
        case "edit":
            job = store.get(id, owner)
            return {**to_create, **_filled(page, tabs, job), **_editing(tabs, job)}
        case _:
            pass
    return {}


def _editing(tabs: Tabs, job: Job) -> Updates:
    return {
        tabs.editing: job.id,
        tabs.create.generate: gr.Button(word("save_changes")),
        tabs.create.stop_editing: gr.Button(visible=True),
    }


def _filled(page: Page, tabs: Tabs, job: Job) -> Updates:
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


def _on_settings(page: Page, tabs: Tabs) -> None:
    create = tabs.create
    fields = create.fields

    def into_form(
        make: Callable[[Visitor], GenerationRequest], request: gr.Request, say: str
    ) -> Any:
        visitor = page.visitor(request)

        def run() -> list[Any]:
            shown = form.shown(make(visitor))
            gr.Info(escape(visitor.language(say)), duration=4)
            return shown

        return told(run, [gr.skip()] * len(fields))

    def replay(file: str | None, request: gr.Request) -> Any:
        if file is None:
            return [gr.skip()] * (len(fields) + 1)
        shown = into_form(lambda _: request_in(Path(file)), request, "replay.done")
        return [None, *shown]

    def apply(name: str, request: gr.Request, *values: Any) -> Any:
        def make(visitor: Visitor) -> GenerationRequest:
            return page.presets.apply(check_name(name), form.request_from(values), visitor.owner)

        return into_form(make, request, "settings.loaded")

    create.replay.upload(replay, create.replay, [create.replay, *fields], **QUIET)
    create.preset_apply.click(apply, [create.preset, *fields], fields, **QUIET)
    create.reset.click(lambda: form.shown(GenerationRequest()), None, fields, **QUIET)
    seed = create.field("seed")
    create.new_seed.click(lambda: str(secrets.randbelow(2**31)), None, seed, **QUIET)
    _on_presets(page, create)
    _on_vision(page, create)


def _on_presets(page: Page, create: CreateTab) -> None:
    def save(name: str, request: gr.Request, *values: Any) -> Any:
        visitor = page.visitor(request)

        def run() -> list[Any]:
            kept = page.presets.save(name or "", form.request_from(values), visitor.owner)
            gr.Info(escape(visitor.language("preset.saved")), duration=3)
            return [gr.update(choices=preset_choices(page, visitor), value=kept), ""]

        return told(run, [gr.skip(), gr.skip()])

    def delete(name: str, request: gr.Request) -> Any:
        visitor = page.visitor(request)
        page.presets.delete(name or "", visitor.owner)
        return gr.update(choices=preset_choices(page, visitor), value="usual")

    outputs = [create.preset, create.preset_name]
    create.preset_save.click(save, [create.preset_name, *create.fields], outputs, **QUIET)
    create.preset_delete.click(delete, create.preset, create.preset, **QUIET)


def _on_vision(page: Page, create: CreateTab) -> None:
    vision = page.vision
    if vision is None:
        return

    def write(picture: str | None, request: gr.Request) -> Any:
        language = page.visitor(request).language

        def run() -> str:
            if not picture:
                raise InputError(language("help.vision.needs_picture"))
            return vision.prompt_for(Path(picture), language("help.instruction"))

        return told(run, gr.skip())

    create.vision.click(write, create.picture, create.field("prompt"), **BUSY)


def _on_models(page: Page, tabs: Tabs) -> None:
    cards = tabs.models.cards

    def act(event: gr.EventData, request: gr.Request, asked: str) -> tuple[str, str]:
        visitor = page.visitor(request)
        do, name = _said(event)

        def run() -> str:
            match do:
                case "get":
                    return name
                case "accept" if asked == name:  # only after the licences were shown
                    page.downloads.start(name)
                case "stop":
                    page.downloads.stop(name)
                case _:
                    pass
            return ""

        now = told(run, "")
        return now, models_panel.models(page.downloads, now, visitor.language)

    cards.act(act, tabs.asked, [tabs.asked, cards], trigger_mode="multiple", **QUIET)

    def look() -> None:
        page.machine.look()

    def look_again() -> None:
        page.machine.look(again=True)

    models = tabs.models

    def first_plan(drawn: str | None, model: str, size: str, vram: str, request: gr.Request) -> Any:
        return gr.skip() if drawn else models.draw_plan(model, size, vram, request)

    tabs.models_tab.select(look, None, None, **QUIET)
    tabs.models_tab.select(first_plan, [models.plan, *models.planned], models.plan, **BUSY)
    tabs.create.how_drawer.expand(look, None, None, **QUIET)
    tabs.models.look.click(look_again, None, None, **QUIET)
