"""The first tab: the form on the left, the stage on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData

from recurvid.errors import InputError
from recurvid.generation.request import GenerationRequest
from recurvid.gui import form, how_form
from recurvid.gui.markup import icon
from recurvid.gui.page import Page, Visitor, panel
from recurvid.gui.presets import GIVEN
from recurvid.gui.words import Language, word
from recurvid.jobs.states import Job

_EXAMPLES = ("help.example1", "help.example2", "help.example3", "help.example4")


@dataclass(frozen=True)
class CreateTab:
    """The components that events read and write.

    Attributes:
        fields: one a field of the request, in its order.
        how: one a choice of how to run.
    """

    picture: gr.Image
    end_picture: gr.Image
    fields: list[Component]
    how: list[Component]
    how_drawer: gr.Accordion
    generate: gr.Button
    stop_editing: gr.Button
    new_seed: gr.Button
    reset: gr.Button
    preset: gr.Dropdown
    preset_name: gr.Textbox
    preset_apply: gr.Button
    preset_save: gr.Button
    preset_delete: gr.Button
    replay: gr.File
    help: gr.HTML
    vision: gr.Button
    stage: gr.HTML

    def field(self, name: str) -> Component:
        """The component of one field."""
        return self.fields[form.names().index(name)]

    def filled(self, request: GenerationRequest) -> dict[Any, Any]:
        """Updates that put a request into the form."""
        return dict(zip(self.fields, form.shown(request), strict=True))


def build(page: Page) -> CreateTab:
    """Lay the tab out; inside an open ``gr.Tab``."""
    made: dict[str, Component] = {}
    parts: dict[str, Any] = {}
    with gr.Row(equal_height=False, elem_classes="rv-columns"):
        with gr.Column(scale=5, min_width=320):
            parts |= _main(made)
            _drawer(made, parts)
            with gr.Accordion(word("how"), open=False, elem_id="how-drawer") as drawer:
                gr.Markdown(word("how.note"), elem_classes="rv-note")
                parts["how"] = how_form.components()
            parts["how_drawer"] = drawer
            parts |= _presets()
            with gr.Accordion(word("help"), open=False, elem_id="help-drawer"):
                parts["help"] = panel("help")
                parts["vision"] = gr.Button(
                    word("help.vision"), visible=page.vision is not None, elem_id="vision"
                )
        with gr.Column(scale=6, min_width=320):
            parts["stage"] = panel("stage")
    fields = [made[control.name] for control in form.controls()]
    return CreateTab(fields=fields, **parts)


def _main(made: dict[str, Component]) -> dict[str, Any]:
    controls = {control.name: control for control in form.controls()}
    picture = picture_field("picture", 270, "picture")
    for name in form.MAIN_FIELDS:
        made[name] = form.component(controls[name])
    generate = gr.Button(word("generate"), variant="primary", size="lg", elem_id="generate")
    stop_editing = gr.Button(word("stop_editing"), visible=False, elem_id="stop-editing")
    with gr.Accordion(word("end_picture"), open=False, elem_id="end-drawer"):
        gr.Markdown(word("end_picture.note"), elem_classes="rv-note")
        end_picture = picture_field("end_picture", 200, "end-picture")
    return {
        "picture": picture,
        "end_picture": end_picture,
        "generate": generate,
        "stop_editing": stop_editing,
    }


def picture_field(label: str, height: int, elem_id: str) -> gr.Image:
    """A field for a picture, whose file only the queue opens.

    Gradio would open it too, and tell the browser of a broken one with all paths that it knows.
    """
    field = gr.Image(
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(mirror=False),  # else the picture taken is mirrored too
        label=word(label),
        height=height,
        buttons=[],
        elem_id=elem_id,
    )
    open_it = field.preprocess

    def path_of(payload: ImageData | None) -> Any:
        return payload.path if payload and payload.path else open_it(payload)

    # On the object, because Gradio writes a file beside the module of every class of its kind.
    field.preprocess = path_of
    return field


def _drawer(made: dict[str, Component], parts: dict[str, Any]) -> None:
    with gr.Accordion(word("advanced"), open=False, elem_id="advanced"):
        gr.Markdown(word("advanced.note"), elem_classes="rv-note")
        for group, controls in form.groups().items():
            gr.Markdown(word(f"group.{group}"), elem_classes="rv-group")
            with gr.Row(elem_classes="rv-fields"):
                for control in controls:
                    with gr.Column(min_width=210):
                        made[control.name] = form.component(control)
            names = [control.name for control in controls]
            if "seed" in names:
                parts["new_seed"] = gr.Button(word("random_seed"), size="sm", elem_id="new-seed")
            if "step_cache" in names:
                gr.Markdown(word("how.step_cache.cost"), elem_classes="rv-note")
        parts["reset"] = gr.Button(word("reset"), size="sm", elem_id="reset")


def _presets() -> dict[str, Any]:
    with gr.Accordion(word("presets"), open=False, elem_id="presets-drawer"):
        preset = gr.Dropdown(
            list(GIVEN), value="usual", label=word("preset"), filterable=False, elem_id="preset"
        )
        with gr.Row():
            apply = gr.Button(word("preset.apply"), elem_id="preset-apply", size="md", min_width=90)
            delete = gr.Button(
                word("preset.delete"), elem_id="preset-delete", size="md", min_width=90
            )
        with gr.Row(equal_height=False):
            name = gr.Textbox(
                label=word("preset.name"), max_length=60, elem_id="preset-name", scale=2
            )
            save = gr.Button(
                word("preset.save"), elem_id="preset-save", size="md", scale=1, min_width=120
            )
        replay = gr.File(
            label=word("replay"),
            file_types=[".mp4", ".webm", ".gif", ".png"],
            height=160,
            elem_id="replay",
        )
    return {
        "preset": preset,
        "preset_apply": apply,
        "preset_delete": delete,
        "preset_name": name,
        "preset_save": save,
        "replay": replay,
    }


def prompt_help(language: Language) -> str:
    """The pattern, examples of our own, and the instruction for a chat model with eyes."""
    examples = "".join(
        f'<button type="button" class="rv-button" data-prompt="{escape(language(key))}">'
        f"{escape(language(key))}</button>"
        for key in _EXAMPLES
    )
    note = escape(language("help.example4.note"))
    return (
        f'<div class="rv-help"><p>{escape(language("help.pattern"))}</p>'
        f"<h4>{escape(language('help.examples'))}</h4>"
        f'<div class="rv-examples">{examples}</div><p class="rv-facts">{note}</p>'
        f"<h4>{escape(language('help.instruction.title'))}</h4>"
        f'<p class="rv-facts">{escape(language("help.instruction.note"))}</p>'
        f'<div class="rv-quote" id="instruction">{escape(language("help.instruction"))}</div>'
        f'<button type="button" class="rv-button" data-copy="instruction">{icon("copy")}'
        f"<span>{escape(language('do.copy'))}</span></button></div>"
    )


def preset_choices(page: Page, visitor: Visitor) -> list[tuple[str, str]]:
    """Given presets in the visitor's language, then the visitor's own."""
    given = [(visitor.language(f"preset.{name}"), name) for name in GIVEN]
    return [*given, *((name, name) for name in page.presets.names(visitor.owner))]


@dataclass(frozen=True)
class Wish:
    """A filled form."""

    picture: str | None
    end_picture: str | None
    how: Sequence[Any]
    fields: Sequence[Any]


def submit(page: Page, visitor: Visitor, wish: Wish, editing: str) -> Job:
    """Queue what the form asks for, or change the job that is being edited.

    Raises:
        InputError, LimitError, JobStateError, UnknownJobError: in one line.
    """
    request = form.request_from(wish.fields)
    how = how_form.how_from(wish.how, page.device)
    if editing:
        return page.store.edit(editing, request, how, owner=visitor.owner)
    if not wish.picture:
        raise InputError("add a start picture first", "picture.need")
    return page.store.add(
        request,
        Path(wish.picture),
        end_picture=Path(wish.end_picture) if wish.end_picture else None,
        owner=visitor.owner,
        how=how,
        title=Path(wish.picture).stem,
    )
