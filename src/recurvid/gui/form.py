"""The form, made from the fields of GenerationRequest: none is missing, none is invented.

A field whose default is None stays empty for "what the model is made for". What a browser sends is
checked by the request itself.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import gradio as gr
from gradio.components import Component

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import RequestError
from recurvid.generation.defaults import resolved
from recurvid.generation.request import (
    GenerationRequest,
    default_of,
    limits_of,
    request_fields,
)
from recurvid.gui.words import LANGUAGES, Language, word

MAIN_FIELDS = ("prompt", "seconds")
"""Shown at once; the others are in the drawer, under the heading of their group."""

_SHORTEST, _LONGEST = 1, 120
# JavaScript's numbers end there; larger ones are typed as text.
_EXACT = 2**53


@dataclass(frozen=True)
class Control:
    """One field of the form.

    Attributes:
        kind: type of the value: str, int, float or bool.
        optional: whether it may stay empty.
    """

    spec: Field[Any]
    kind: type
    optional: bool

    @property
    def name(self) -> str:
        """The field's name."""
        return self.spec.name

    @property
    def group(self) -> str:
        """The heading it stands under."""
        return limits_of(self.spec).group

    @property
    def choices(self) -> tuple[str, ...]:
        """Everything that can be chosen, or nothing where it is typed."""
        return tuple(KNOWN) if self.name == "model" else limits_of(self.spec).choices

    @property
    def typed(self) -> bool:
        """Whether it is a line of text.

        So are numbers that may stay empty, for Gradio's own field sends 0 when it is, and numbers
        beyond what JavaScript holds.
        """
        number = self.kind in (int, float)
        return self.kind is str or (number and (self.optional or self._is_large))

    def shown(self, value: Any) -> Any:
        """A request's value as the component takes it."""
        if value is None:
            return ""
        if self.typed and self.kind is not str:
            return f"{value:g}" if isinstance(value, float) else str(value)
        return value

    def read(self, value: Any) -> Any:
        """A component's value as a request takes it; what is wrong is left for it to refuse.

        Raises:
            RequestError: text where a number belongs.
        """
        if self.optional and (value is None or not str(value).strip()):
            return None
        if value is None:
            return default_of(self.spec)
        if self.typed and self.kind is not str:
            return number_in(self.name, str(value), whole=self.kind is int)
        return value

    @property
    def _is_large(self) -> bool:
        limits = limits_of(self.spec)
        return self.kind is int and (limits.maximum or 0) > _EXACT


def number_in(name: str, text: str, *, whole: bool = False) -> int | float:
    """A number that somebody typed.

    Raises:
        RequestError: it is none.
    """
    text = text.strip()
    pattern = r"\d{1,20}" if whole else r"\d{1,15}([.,]\d{1,15})?"
    if not re.fullmatch(pattern, text, re.ASCII):
        kind = "a whole number" if whole else "a number"
        raise RequestError(
            f"{name}: {text[:40]!r} is not {kind}",
            "field.kind",
            field=name,
            kind="int" if whole else "float",
            value=text[:40],
        )
    return int(text) if whole else float(text.replace(",", "."))


def controls() -> tuple[Control, ...]:
    """One control a field, in the request's order."""
    hints = get_type_hints(GenerationRequest)
    made: list[Control] = []
    for spec in request_fields():
        hint = hints[spec.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kind = next(k for k in kinds if k is not types.NoneType)
        made.append(Control(spec, kind, types.NoneType in kinds))
    return tuple(made)


def names() -> tuple[str, ...]:
    """The names of the controls, in the same order."""
    return tuple(control.name for control in controls())


def groups() -> dict[str, tuple[Control, ...]]:
    """The controls of the drawer under their headings."""
    found: dict[str, tuple[Control, ...]] = {}
    for control in controls():
        if control.name not in MAIN_FIELDS:
            found[control.group] = (*found.get(control.group, ()), control)
    return found


def component(control: Control) -> Component:
    """The Gradio component of a control; made inside the layout that is open."""
    named: dict[str, Any] = {
        "label": word(f"field.{control.name}"),
        "info": word(f"field.{control.name}.help"),
        "value": control.shown(default_of(control.spec)),
        "elem_id": f"field-{control.name}",
    }
    if control.name == "prompt":
        named["placeholder"] = word("prompt.example")
        return gr.Textbox(lines=3, max_lines=10, max_length=10_000, **named)
    if control.name == "seconds":
        return gr.Slider(_SHORTEST, _LONGEST, step=0.1, **named)
    if control.choices:
        choices = dropdown_choices(control, LANGUAGES["en"])
        return gr.Dropdown(choices, filterable=False, **named)
    if control.kind is bool:
        return gr.Checkbox(**named)
    if control.typed:
        hint = word(_default_word(control)) if control.optional else None
        return gr.Textbox(lines=1, max_length=10_000, placeholder=hint, **named)
    # Without the limits: the request says what is wrong with a number in the visitor's language.
    return gr.Number(
        precision=0 if control.kind is int else None,
        step=1 if control.kind is int else 0.01,
        **named,
    )


def dropdown_choices(
    control: Control, language: Language, model: str = ""
) -> list[tuple[str, str]]:
    """What a drop-down offers. Gradio translates no choices, so the page does when it loads.

    Args:
        model: whose own choice is named for an empty one.
    """
    unset = [(_unset(control, language, model), "")] if control.optional else []
    return [*unset, *((choice, choice) for choice in control.choices)]


def made_for(model: str, language: Language) -> list[dict[str, Any]]:
    """What empty fields say of a model's own values: an update for each of :func:`left_open`."""
    return [
        gr.update(choices=dropdown_choices(control, language, model))
        if control.choices
        else gr.update(placeholder=_unset(control, language, model))
        for control in left_open()
    ]


def left_open() -> tuple[Control, ...]:
    """The controls that may stay empty, for what the model is made for."""
    return tuple(control for control in controls() if control.optional)


def _unset(control: Control, language: Language, model: str) -> str:
    """What stands for an empty field, with the value that it stands for where that is known."""
    word = language(_default_word(control))
    if model not in KNOWN:
        return word
    value = getattr(resolved(GenerationRequest(model=model), KNOWN[model]), control.name)
    # A shift of 0 is derived from the video; a guidance that is None is not there.
    if value is None or (control.name == "shift" and not value):
        return word
    value = f"{value:g}" if isinstance(value, float) else value
    return language("default.value", value=value, word=word)


def request_from(values: Sequence[Any]) -> GenerationRequest:
    """The request of a filled form; values in the order of :func:`controls`.

    Raises:
        RequestError: naming the field.
    """
    given = {c.name: c.read(value) for c, value in zip(controls(), values, strict=True)}
    return GenerationRequest.from_untrusted(given)


def shown(request: GenerationRequest) -> list[Any]:
    """A request as values of the components, in the order of :func:`controls`.

    Beside them the slider's ends move where the request lies outside them.
    """
    values: list[Any] = []
    for control in controls():
        value = control.shown(getattr(request, control.name))
        if control.name == "seconds":
            low, high = min(_SHORTEST, value), max(_LONGEST, value)
            value = gr.update(value=value, minimum=low, maximum=high)
        values.append(value)
    return values


def chosen(request: GenerationRequest) -> Mapping[str, Any]:
    """What a request says that the defaults do not, for a short description."""
    return {
        control.name: value
        for control in controls()
        if (value := getattr(request, control.name)) != default_of(control.spec)
    }


def _default_word(control: Control) -> str:
    unset = limits_of(control.spec).unset
    return "default.cache" if unset == "the cache's" else "model_default"
