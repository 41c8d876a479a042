"""``recurvid bench``: how fast this machine makes videos, as a table and as JSON to share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurvid.cli.machine import local_for, takes_machine
from recurvid.cli.options import JsonOption, path
from recurvid.cli.output import Output
from recurvid.errors import OutputError

if TYPE_CHECKING:
    from recurvid.evaluation.bench import Measured


@takes_machine
def bench(
    how: dict[str, Any],
    model: Annotated[str, typer.Option(help="Name, path or NAME=PATH of the model.")] = "bundled",
    size: Annotated[
        str | None, typer.Option(help="Size of the video (default: 128, or the model's own).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of the video.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100, help="Denoising steps (default: 8, or 25).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=path, metavar="FILE", help="Write the JSON here too."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a short video without and with a step cache; show what each phase took."""
    from recurvid.checkpoints.locate import locate
    from recurvid.evaluation import bench as measure
    from recurvid.generation.request import GenerationRequest
    from recurvid.generation.runtime import pick_device

    output = Output(as_json)
    _refuse_folder(out)
    spec = locate(model).spec
    small = spec.bundled
    request = GenerationRequest(
        prompt="pan left",
        model=spec.name,
        seconds=seconds,
        size=size or ("128" if small else None),
        steps=steps or (8 if small else 25),
    )
    local = local_for("", how, model=model)
    output.note("making two short videos")
    rows = list(measure.bench(request, local))
    found = measure.shareable(rows, request, local, pick_device(local.device))
    if as_json:
        output.record(found)
    else:
        output.result.print(_table(rows))
        output.result.print(_machine(found["machine"]), markup=False)
    if out is not None:
        _write(out, found)


def _table(rows: list[Measured]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(row.name, justify="right")
    table.add_row("s/frame", *(f"{row.seconds_a_frame:.3f}" for row in rows))
    table.add_row("a step, s", *(f"{row.step:.3f}" for row in rows))
    for phase in rows[0].seconds:
        table.add_row(f"{phase}, s", *(f"{row.seconds[phase]:.1f}" for row in rows))
    for title, sizes in (
        ("process, GiB", [row.process_bytes for row in rows]),
        ("device, GiB", [row.device_bytes for row in rows]),
    ):
        known = [size / 2**30 for size in sizes if size is not None]
        if known:
            table.add_row(title, *(f"{size:.2f}" for size in known))
    return table


def _machine(machine: dict[str, Any]) -> str:
    name = machine.get("card") or f"{machine['processor'] or 'CPU'}, {machine['threads']} threads"
    return f"{name}; torch {machine['torch']}, {machine['system']}, recurvid {machine['recurvid']}"


def _refuse_folder(out: Path | None) -> None:
    """Say before the work that a file cannot be written."""
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise OutputError(f"output {str(out)!r}: not a place for a file; name one, like bench.json")


def _write(out: Path, found: dict[str, Any]) -> None:
    try:
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
