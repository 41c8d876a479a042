"""``recurvid models``: what is known, what is on this machine, and fetching the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from recurvid.checkpoints.fetch import FetchPlan, fetch, in_words, plan_fetch
from recurvid.checkpoints.known import KNOWN, ModelSpec
from recurvid.checkpoints.locate import Found, status
from recurvid.cli.options import JsonOption, path
from recurvid.cli.output import Output
from recurvid.errors import InputError

if TYPE_CHECKING:
    from typer import Context
else:  # typer with its own copy of click hands over that copy's class, not the one it names
    Context = typer.Context.__base__

app = typer.Typer(help="List the models that are known, and fetch them.", no_args_is_help=False)

_MARKS = {"present": "[green]present[/]", "incomplete": "[yellow]incomplete[/]",
          "missing": "[red]missing[/]"}  # fmt: skip


@app.callback(invoke_without_command=True)
def models(context: Context, as_json: JsonOption = False) -> None:
    """What is known, present and missing, with sizes and licences. Touches no network."""
    if context.invoked_subcommand is not None:
        return
    found = {name: status(spec) for name, spec in KNOWN.items()}
    if as_json:
        for name, parts in found.items():
            Output(as_json).record(_as_dict(KNOWN[name], parts))
        return
    console = Console()
    console.print(_models_table(found))
    console.print(_parts_table(found))
    console.print("Fetch what is missing: [bold]recurvid models get NAME[/]")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licences.")] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            parser=path,
            metavar="DIR",
            help="Folder to fetch to; by default the hub's cache.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the licences of a model, ask, and fetch what is missing of it; resumes."""
    if name not in KNOWN:
        raise InputError(f"model {name!r} is not known; one of {', '.join(KNOWN)}")
    spec = KNOWN[name]
    console = Console(stderr=True)
    if not spec.bundled:
        plan = plan_fetch(spec, to)
        if plan.parts:
            _agree(plan, yes, console)
            _fetch(plan, None if as_json else console)
    found = status(spec, _roots(to))
    if as_json:
        Output(as_json).record(_as_dict(spec, found))
    elif spec.bundled:
        typer.echo(f"{name} is part of this package; nothing to fetch.")
    else:
        typer.echo(f"{name} is complete on this machine.")


def _roots(to: Path | None) -> Sequence[Path] | None:
    from recurvid.checkpoints.locate import search_roots

    return None if to is None else (to, *search_roots())


def _agree(plan: FetchPlan, yes: bool, console: Console) -> None:
    """Show what is fetched and under which terms; stop unless the user accepts."""
    console.print(f"[bold]{plan.spec.name}[/]: {plan.spec.title}", highlight=False)
    for part in plan.parts:
        console.print(f"  {part.role}: {part.repo}, {in_words(part.size)}", highlight=False)
    console.print(f"To fetch: {in_words(plan.size)}, to {plan.cache}", highlight=False)
    for licence in dict.fromkeys(part.licence for part in plan.parts):
        console.print(f"\n[bold]{licence.name}[/] {licence.url}", highlight=False, soft_wrap=True)
        console.print(f"  {licence.summary}", highlight=False)
    if yes:
        return
    if not _at_terminal():
        raise InputError("the licences have to be accepted: run it in a terminal, or pass --yes")
    if not typer.confirm("\nAccept these licences and fetch?", default=False, err=True):
        raise typer.Exit(1)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _fetch(plan: FetchPlan, console: Console | None) -> None:
    """Fetch with a bar for each large file, or silently."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    if console is None:
        fetch(plan)
        return
    columns = (TextColumn("{task.description}"), BarColumn(8), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=console) as bars:

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name[-36:], total=total)  # 80 columns have to do
            bars.update(tasks[name], completed=done)

        fetch(plan, progress=show)


def _state(parts: Sequence[Found]) -> str:
    states = {part.state for part in parts}
    if states == {"present"}:
        return "present"
    return "missing" if states == {"missing"} else "incomplete"


def _size(part: Found) -> int:
    return part.size if part.path else part.component.size


def _models_table(found: dict[str, tuple[Found, ...]]) -> Table:
    table = Table(title="Models", title_justify="left")
    for heading in ("name", "state", "size", "order", "what"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for name, parts in found.items():
        spec = KNOWN[name]
        table.add_row(
            f"[bold]{name}[/]",
            _MARKS[_state(parts)],
            in_words(sum(_size(part) for part in parts)),
            spec.defaults.order,
            spec.title,
        )
    return table


def _parts_table(found: dict[str, tuple[Found, ...]]) -> Table:
    table = Table(title="Their parts", title_justify="left")
    for heading in ("part", "from", "state", "size", "licence"):
        justify = "right" if heading == "size" else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    unique = {part.component: part for parts in found.values() for part in parts}
    for component, part in unique.items():
        table.add_row(
            component.role,
            component.repo or "this package",
            _MARKS[part.state],
            in_words(_size(part)),
            component.licence.name,
        )
    return table


def _as_dict(spec: ModelSpec, parts: Sequence[Found]) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "state": _state(parts),
        "size": sum(_size(part) for part in parts),
        "order": spec.defaults.order,
        "schedule": spec.defaults.schedule,
        "parts": [
            {
                "role": part.component.role,
                "repo": part.component.repo or None,
                "folder": part.component.folder or None,
                "state": part.state,
                "path": str(part.path) if part.path else None,
                "size": _size(part),
                "licence": part.component.licence.name,
            }
            for part in parts
        ],
        "licences": [
            {"name": term.name, "url": term.url or None, "summary": term.summary}
            for term in spec.licences
        ],
    }
