"""What happens on the page: every event is bound from here."""

from __future__ import annotations

from typing import Any

import gradio as gr

from recurvid.generation.request import GenerationRequest
from recurvid.gui import form, how_form, models_panel
from recurvid.gui.create_tab import preset_choices, prompt_help
from recurvid.gui.form_actions import on_form
from recurvid.gui.job_actions import on_clicks, said
from recurvid.gui.page import BUSY, QUIET, Page, told
from recurvid.gui.tabs import Tabs


def listen(page: Page, tabs: Tabs) -> None:
    """Bind every event."""
    _on_load(page, tabs)
    on_form(page, tabs)
    on_clicks(page, tabs)
    _on_models(page, tabs)
    _on_machine(page, tabs)


def _on_load(page: Page, tabs: Tabs) -> None:
    create = tabs.create

    def loaded(request: gr.Request) -> list[Any]:
        visitor = page.visitor(request)
        language = visitor.language
        choices: list[Any] = form.made_for(GenerationRequest().model, language)
        offers = [
            how_form.kernel_choices(page.machine.kernels(), language),
            how_form.weight_choices(language),
            how_form.dtype_choices(language),
        ]
        choices += [gr.update(choices=offered) for offered in offers]
        presets = gr.update(choices=preset_choices(page, visitor))
        return [prompt_help(language), presets, *choices]

    how = dict(zip(how_form.FIELDS, create.how, strict=True))
    left_open = [create.field(control.name) for control in form.left_open()]
    drops = [*left_open, *(how[name] for name in ("attention", "weights", "dtype"))]
    outputs = [create.help, create.preset, *drops]
    gr.on(None, loaded, None, outputs, queue=False, **QUIET)

    def chosen(model: str, request: gr.Request) -> list[Any]:
        return form.made_for(model, page.visitor(request).language)

    model = create.field("model")
    model.change(chosen, model, left_open, queue=False, **QUIET)  # pyright: ignore


def _on_models(page: Page, tabs: Tabs) -> None:
    cards = tabs.models.cards

    def act(event: gr.EventData, request: gr.Request, asked: str) -> tuple[str, str]:
        visitor = page.visitor(request)
        do, name = said(event)

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

        now = told(visitor, run, "")
        return now, models_panel.models(page.downloads, now, visitor.language)

    cards.act(act, tabs.asked, [tabs.asked, cards], trigger_mode="multiple", **QUIET)


def _on_machine(page: Page, tabs: Tabs) -> None:
    models = tabs.models

    def look() -> None:
        page.machine.look()

    def look_again() -> None:
        page.machine.look(again=True)

    def first_plan(drawn: str | None, model: str, size: str, vram: str, request: gr.Request) -> Any:
        return gr.skip() if drawn else models.draw_plan(model, size, vram, request)

    tabs.models_tab.select(look, None, None, **QUIET)
    tabs.models_tab.select(first_plan, [models.plan, *models.planned], models.plan, **BUSY)
    tabs.create.how_drawer.expand(look, None, None, **QUIET)
    models.look.click(look_again, None, None, **QUIET)
