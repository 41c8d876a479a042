"""Command line options made from the fields of GenerationRequest, and those shared by commands."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
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


def _not_empty(text: str | None) -> str | None:
    if text == "":
        raise typer.BadParameter("it is empty")
    return text


DEVICES = "auto, cpu, cuda, cuda:1, mps or xpu"

JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
DeviceOption = Annotated[str | None, typer.Option(help=f"Device: {DEVICES}.", callback=_not_empty)]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="Number type of the model: auto, float32, bfloat16 or float16.", callback=_not_empty
    ),
]
AttentionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attention kernel: auto, or one that `doctor` lists.",
        callback=_not_empty,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FORM",
        callback=_not_empty,
        help="Form of the weights: auto (as in the file), int8, fp8, int8-weights, nf4 or int4. "
        "Fewer bits change the picture a little.",
    ),
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the blocks: a minute at first, then faster."
    ),
]
ExactStepsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=1000,
        help="First and last steps of a section in which 8-bit attention (sage, cudnn-fp8) gives "
        "way to an exact kernel (default: 1).",
    ),
]
SparseOption = Annotated[
    str | None,
    typer.Option(
        metavar="WINDOW",
        callback=_not_empty,
        help="Sparse attention: none (default), or windows of rows x columns of 16 pixels, with "
        "+margin and @percent of first steps without them, as 10x13+5@25. Changes the picture.",
    ),
]
VramOption = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        min=1,
        max=4096,
        help="Device memory to keep to, everything counted (default: what is free).",
    ),
]
OutputOption = Annotated[
    str | None,  # a Path would lose the slash of "frames/", which means PNG frames
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        callback=_not_empty,
        help="The result: .mp4, .webm, .gif, or FOLDER/ for PNG frames (default: IMAGE's .mp4).",
    ),
]


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(asked, ...)`` an option for each field of a request.

    ``asked`` receives the fields that were given on the command line and no others, so that the
    settings of ``--like`` hold wherever the user said nothing.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    hints = get_type_hints(GenerationRequest)
    made = [_parameter(spec, hints[spec.name]) for spec in request_fields()]
    names = [spec.name for spec in request_fields()]

    def wrapper(**values: Any) -> None:
        asked = {name: value for name in names if (value := values.pop(name)) is not None}
        command(asked, **values)

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in sorted([*own, *made], key=lambda p: p.default is not inspect.Parameter.empty)
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


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
