"""Command line options made from the fields of GenerationRequest, and those shared by commands."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from recurvid.generation.request import (
    FieldLimits,
    GenerationRequest,
    default_of,
    limits_of,
    request_fields,
)


def path(text: str) -> Path:
    """A path given on the command line; ``""`` would mean the current folder."""
    if not text:
        raise typer.BadParameter("it is empty")
    return Path(text)


def not_empty(text: str | None) -> str | None:
    """Callback of an option whose value ``""`` would not mean anything."""
    if text == "":
        raise typer.BadParameter("it is empty")
    return text


JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
DraftOption = Annotated[
    str | None,
    typer.Option(
        "--draft-decoder",
        metavar="FILE",
        callback=not_empty,
        help="A tiny decoder in TAEHV's layout that draws the previews (taehv.safetensors for "
        "released models); none for the rough colours.",
    ),
]
PreviewsOption = Annotated[
    bool,
    typer.Option(
        "--previews",
        help="Keep a moving look at the section in the making: preview.webp in the session folder. "
        "--draft-decoder brings it too.",
    ),
]
OutputOption = Annotated[
    str | None,  # a Path would lose the slash of "frames/", which means PNG frames
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        callback=not_empty,
        help="The result: .mp4, .webm, .gif, or FOLDER/ for PNG frames (default: IMAGE's .mp4).",
    ),
]


def gathers(
    command: Callable[..., None], into: str, made: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """The command with options in place of its parameter ``into``.

    That parameter then receives, by name, the options that were given on the command line and no
    others, so that a video's or a session's settings hold wherever the user said nothing.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for name, p in signature.parameters.items() if name != into]

    def wrapper(**values: Any) -> None:
        taken = {parameter.name: values.pop(parameter.name) for parameter in made}
        given = {name: value for name, value in taken.items() if value is not None}
        command(**values, **{into: given})

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in sorted([*own, *made], key=lambda p: p.default is not inspect.Parameter.empty)
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(asked, ...)`` an option for each field of a request."""
    hints = get_type_hints(GenerationRequest)
    return gathers(
        command, "asked", [_parameter(spec, hints[spec.name]) for spec in request_fields()]
    )


def _parameter(spec: Field[Any], hint: Any) -> inspect.Parameter:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kind = next(k for k in kinds if k is not types.NoneType)
    flag = f"--{spec.name.replace('_', '-')}"
    limits = limits_of(spec)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=_help(spec.name, limits, default_of(spec)),
        show_default=False,
        rich_help_panel=f"{limits.group} options",
    )
    return inspect.Parameter(
        spec.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _help(name: str, limits: FieldLimits, default: Any) -> str:
    parts = [limits.help]
    if name == "model":
        parts.append("`generate` takes a path to model files too, or NAME=PATH.")
    if limits.choices:
        parts.append(f"One of {', '.join(limits.choices)}.")
    if default is None:
        parts.append(f"(default: {limits.unset})")
    elif default not in ("", False):
        unit = f" {limits.unit}" if limits.unit else ""
        parts.append(f"(default: {default}{unit})")
    return " ".join(parts)
