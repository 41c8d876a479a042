"""Requests as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from recurvid.generation.request import limits_of, request_fields


def request_table(request: Mapping[str, Any]) -> Table:
    """Fields and values of a request, without what says nothing."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for spec in request_fields():
        value = request.get(spec.name)
        if value in (None, "", False):
            continue
        unit = limits_of(spec).unit
        # Text, not markup: the prompt may come out of a stranger's video.
        shown = Text(f"{printable(value)}{' ' + unit if unit else ''}")
        table.add_row(Text(spec.name.replace("_", " "), style="bold"), shown)
    return table


def printable(value: Any) -> str:
    """A value without control characters, which could move the cursor or change the title."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )
