"""A Placement as a picture: one bar a phase, as long as the card is large."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from recurvid.cli.disk_needs import OnDisk
from recurvid.memory.budget import CONTEXT, PhasePlan, Placement, gib

_WIDTH = 40
_SOURCES = {
    "device": "nothing is streamed while denoising",
    "pinned": "streamed blocks wait in pinned memory",
    "mapped": "streamed blocks are read from the memory-mapped file, through a small pinned ring",
}
# What a piece of the bar is -> its character and style; readable without colours too.
_MARKS = {
    "CUDA": ("#", "dim"),
    "weights": ("W", "blue"),
    "resident blocks": ("B", "green"),
    "block buffers": ("S", "yellow"),
    "work": ("~", "red"),
    "free": ("·", "dim"),
    "left free": (" ", "dim"),
}


def memory_picture(placement: Placement, title: str, rounded: int, files: OnDisk) -> Group:
    """Bars of all phases, a legend, and what system memory and disk are asked for.

    Args:
        rounded: bytes of weights in another form that are on disk already.
        files: those of the model.
    """
    budget = placement.budget
    lines = [
        Text(f"{title}: {gib(budget.vram)} on the device, of which {gib(budget.process)} may be "
             f"taken in all and {gib(budget.allocator)} by torch"),
        *(_row(placement, plan) for plan in placement.phases),
        _legend(),
        Text(f"system memory: {gib(placement.ram)} of the process; {_SOURCES[placement.source]}"),
    ]  # fmt: skip
    if placement.together:
        lines.append(Text("backbone and decoder stay on the device side by side"))
    if placement.cache:
        lines.append(
            Text(f"page cache: {gib(placement.cache)} are read again in every step; with less "
                 "free memory than that, from disk")
        )  # fmt: skip
    lines.append(Text(f"disk: about {placement.disk / 1e6:.0f} MB for latents and video"))
    lines += [Text(line) for line in _disk(placement.kept, rounded, files)]
    short = placement.shortages()
    lines += [Text(f"does not fit: {line}", style="bold red") for line in short]
    if not short:
        lines.append(Text("this fits", style="bold green"))
    return Group(*lines)


def _disk(missing: int, there: int, files: OnDisk) -> list[str]:
    lines: list[str] = []
    if missing:
        lines.append(f"disk: {gib(missing)} for weights in this form, written once and kept")
    if there:
        lines.append(f"disk: {gib(there)} of weights in this form are there already")
    if files.missing and files.there:
        lines.append(f"disk: {gib(files.missing)} of the model to fetch, {gib(files.there)} there")
    elif files.missing:
        lines.append(f"disk: {gib(files.missing)} of the model to fetch")
    else:
        lines.append(f"disk: the model's {gib(files.there)} are there already")
    return lines


def placement_json(placement: Placement) -> dict[str, Any]:
    """The same as JSON values; bytes."""
    budget = placement.budget
    return {
        "vram": budget.vram,
        "process_limit": budget.process,
        "allocator_limit": budget.allocator,
        "source": placement.source,
        "ram": placement.ram,
        "page_cache": placement.cache,
        "disk": placement.disk,
        "disk_for_weights": placement.kept,
        "together": placement.together,
        "phases": [
            {
                "name": plan.need.name,
                "device": plan.device,
                "weights": plan.need.weights,
                "work": plan.need.work,
                "blocks": len(plan.need.blocks),
                "resident_blocks": len(plan.resident),
                "resident_bytes": plan.resident_bytes,
                "slots": plan.slots,
                "slot_bytes": plan.slot_bytes,
                "streamed_bytes": sum(plan.streamed),
                "shortage": plan.shortage,
            }
            for plan in placement.phases
        ],
        "does_not_fit": placement.shortages(),
        "said": [line.to_json() for line in placement.shortages()],
    }


def pieces(placement: Placement, plan: PhasePlan) -> dict[str, int]:
    """Bytes of each piece of a phase's bar; what is too much overflows the card."""
    used = {
        "CUDA": CONTEXT,
        "weights": plan.need.weights,
        "resident blocks": plan.resident_bytes,
        "block buffers": plan.slot_bytes,
        "work": plan.need.work,
    }
    free = max(0, placement.budget.process - sum(used.values()))
    left = max(0, placement.budget.vram - free - sum(used.values()))
    return used | {"free": free, "left free": left}


def _row(placement: Placement, plan: PhasePlan) -> Text:
    row = Text(f"{plan.need.name:<21}")
    return row.append_text(_bar(placement, plan)).append(f" {_words(plan)}")


def _bar(placement: Placement, plan: PhasePlan) -> Text:
    bar = Text("▏")
    end = drawn = 0
    for name, size in pieces(placement, plan).items():
        mark, style = _MARKS[name]
        end += size
        # Rounded at the ends, so that pieces always add up to the whole bar.
        stop = min(round(end / placement.budget.vram * _WIDTH), _WIDTH + 12)
        bar.append(mark * (stop - drawn), style=style)
        drawn = stop
    return bar.append("▕" if drawn <= _WIDTH else "▶", style="bold red" if drawn > _WIDTH else "")


def _words(plan: PhasePlan) -> str:
    blocks = len(plan.need.blocks)
    parts = [gib(plan.device)]
    if blocks and len(plan.resident) == blocks:
        parts.append(f"all {blocks} blocks resident")
    elif blocks:
        parts.append(f"{len(plan.resident)} of {blocks} blocks resident, {plan.slots} buffers")
    return ", ".join(parts)


def _legend() -> Text:
    legend = Text()
    for name, (mark, style) in _MARKS.items():
        if mark != " ":
            legend.append(f"{mark} ", style=style)
            legend.append(f"{name}  ")
    return legend
