"""What clients send. What a request has is made from GenerationRequest's own fields.

The models made from dataclasses describe and convert; the dataclasses themselves have the last word
(:func:`request_from`, :func:`how_from`), so that no rule stands in two places.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import Field as DataclassField
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import RequestError
from recurvid.generation.request import (
    LONGEST_TEXT,
    GenerationRequest,
    default_of,
    limits_of,
    request_fields,
)
from recurvid.jobs.states import MOST_EXACT_STEPS, HowToRun
from recurvid.server.problems import Problem

ID_PATTERN = r"^video_[0-9a-f]{32}$"
_CLOSED = ConfigDict(extra="forbid")


def _kind(hint: Any, choices: tuple[str, ...]) -> Any:
    """The type of a field, with a Literal in place of str where the values are known."""
    if not choices:
        return hint
    optional = get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint)
    literal: Any = Literal[choices]
    return literal | None if optional else literal


def _request_field(spec: DataclassField[Any], hint: Any) -> tuple[Any, Any]:
    limits = limits_of(spec)
    choices = tuple(KNOWN) if spec.name == "model" else limits.choices
    kinds = get_args(hint) or (hint,)
    is_text = str in kinds and not choices
    described = limits.help + (f" ({limits.unit})" if limits.unit else "")
    if default_of(spec) is None:
        described += f" Default: {limits.unset}."
    made = Field(
        default=default_of(spec),
        description=described,
        ge=limits.minimum,
        le=limits.maximum,
        max_length=LONGEST_TEXT if is_text else None,
        json_schema_extra={"group": limits.group},
    )
    return _kind(hint, choices), made


def _request_model(name: str, **more: Any) -> type[BaseModel]:
    hints = get_type_hints(GenerationRequest)
    made: dict[str, Any] = {s.name: _request_field(s, hints[s.name]) for s in request_fields()}
    return create_model(name, __config__=_CLOSED, **(made | more))


_ABOUT_HOW = {
    "device": "auto, cpu, cuda, cuda:1, mps or xpu",
    "dtype": "Number type of the model: auto, float32, bfloat16 or float16.",
    "vram": "Device memory to keep to, GiB; null for what is free.",
    "attention": "Attention kernel: auto, or one that `recurvid doctor` lists.",
    "weights": "Form of the weights: auto, int8, fp8, int8-weights, nf4 or int4.",
    "compiled": "Compile the blocks: a minute at first, then faster.",
    "exact_steps": "First and last steps of a section without 8-bit attention, where that is used.",
    "sparse": "Sparse attention: none, or windows as 10x13+5@25. Changes the picture.",
    "metadata": "Whether the video carries its request.",
}


def _how_model() -> type[BaseModel]:
    hints = get_type_hints(HowToRun)
    made: dict[str, Any] = {}
    for spec in fields(HowToRun):
        kinds = get_args(hints[spec.name]) or (hints[spec.name],)
        bounds: dict[str, Any] = {}
        if str in kinds:
            bounds = {"min_length": 1, "max_length": 40}
        elif float in kinds:
            bounds = {"gt": 0, "le": 4096}
        elif int in kinds:
            bounds = {"ge": 0, "le": MOST_EXACT_STEPS}
        made[spec.name] = (
            hints[spec.name],
            Field(default=spec.default, description=_ABOUT_HOW[spec.name], **bounds),
        )
    # It is read from JSON only, where true is not 1.
    return create_model("HowToRun", __config__=ConfigDict(extra="forbid", strict=True), **made)


RequestBody: type[BaseModel] = _request_model("GenerationRequest")
HowBody: type[BaseModel] = _how_model()
#: What OpenAI's endpoint takes beside the picture: its own fields are fields of a request too.
VideoForm: type[BaseModel] = _request_model("VideoForm")


def request_from(values: object, *, lax: bool = False) -> GenerationRequest:
    """A request out of JSON, or with ``lax`` out of the texts of a form.

    Raises:
        RequestError: naming the field.
    """
    if lax:
        assert isinstance(values, Mapping)
        values = _converted(VideoForm, values)
    return GenerationRequest.from_untrusted(values)


def how_from(values: object) -> HowToRun:
    """How to run, out of JSON.

    Raises:
        RequestError, InputError: naming the field.
    """
    if not isinstance(values, Mapping):
        raise RequestError("how: a JSON object of choices is needed")
    return HowToRun.from_json(_converted(HowBody, values))


def _converted(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return model.model_validate(dict(values)).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:60] or "body"
        message = "is not a field" if first["type"] == "extra_forbidden" else first["msg"]
        raise Problem(400, f"{name}: {message}", parameter=name) from None


class Edit(BaseModel):
    """What to change of a job that still waits. A request is replaced whole."""

    model_config = _CLOSED
    request: RequestBody  # pyright: ignore[reportInvalidTypeForm]
    how: HowBody | None = None  # pyright: ignore[reportInvalidTypeForm]


class Move(BaseModel):
    """Where a waiting job goes in the queue."""

    model_config = _CLOSED
    before: Annotated[str, Field(pattern=ID_PATTERN)] | None = Field(
        default=None, description="The job that it is put before; null for the end."
    )
