"""How this machine runs a request: options declared once, for each command that makes a video."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recurvid.cli.options import gathers, not_empty
from recurvid.generation.local import NO_DRAFT, Local
from recurvid.settings import settings

DEVICES = "auto, cpu, cuda, cuda:1, mps or xpu"

DeviceOption = Annotated[str | None, typer.Option(help=f"Device: {DEVICES}.", callback=not_empty)]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="Number type of the model: auto, float32, bfloat16 or float16.", callback=not_empty
    ),
]
AttentionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attention kernel: auto, or one that `doctor` lists.",
        callback=not_empty,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FORM",
        callback=not_empty,
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
        help="First and last steps of a section in which 8-bit attention (sage, cudnn-fp8, "
        "triton-fp8, triton-int8) gives way to an exact kernel (default: 1).",
    ),
]
SparseOption = Annotated[
    str | None,
    typer.Option(
        metavar="WINDOW",
        callback=not_empty,
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
#: By the field of a Local that an option sets; in the order in which a help page shows them.
MACHINE: dict[str, Any] = {
    "device": DeviceOption,
    "dtype": DtypeOption,
    "attention": AttentionOption,
    "weights": WeightsOption,
    "compiled": CompileOption,
    "exact_steps": ExactStepsOption,
    "sparse": SparseOption,
    "vram": VramOption,
}


def takes_machine(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(how, ...)`` an option for each way to run a request.

    ``how`` receives the fields of a Local that were given on the command line and no others.
    """
    made = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in MACHINE.items()
    ]
    return gathers(command, "how", made)


def draft_place(asked: str | None) -> str | None:
    """A draft decoder's file as a session keeps it: it must hold from another folder too."""
    if asked is None or asked == NO_DRAFT:
        return asked
    return str(Path(os.path.expanduser(asked)).absolute())


def local_for(output: str, how: dict[str, Any], **others: Any) -> Local:
    """What concerns this machine, with its defaults where nothing was asked."""
    return Local(output, **{"device": settings().device, **how}, **others)
