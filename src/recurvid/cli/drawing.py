"""Schedules and plans as pictures in the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recurvid.cli.progress import plan_line
from recurvid.generation.video_plan import VideoPlan
from recurvid.packing import PackingSchedule, TokenCount
from recurvid.sections import Section, SectionPlan

_WIDEST = 72
_MOST_ROWS = 24
_MARKS = {
    "made now": ("█", "bold green"),
    "seen as history": ("▒", "cyan"),
    "seen as anchor": ("◆", "bold yellow"),
    "made before": ("·", "white"),
    "not made yet": (" ", ""),
}


def schedule_table(schedule: PackingSchedule, tokens: TokenCount, height: int, width: int) -> Group:
    """Groups of a schedule in timeline order with their tokens."""
    table = Table("group", "tokens", "", title=str(schedule), title_justify="left")
    table.columns[1].justify = "right"
    largest = max(tokens.groups.values())
    for label, count in tokens.groups.items():
        bar = "█" * max(1, round(30 * count / largest))
        style = "green" if label.startswith("target") else "cyan"
        table.add_row(label, f"{count:,}", Text(bar, style=style))
    table.add_section()
    table.add_row("total", f"{tokens.total:,}", f"at {width}x{height}")
    words = (
        f"makes {schedule.generated} latent frames a section, sees {schedule.history_frames} of "
        f"history and {schedule.anchor_frames} of anchor; {schedule.direction}"
    )
    return Group(table, Text(words))


def plan_drawing(plan: VideoPlan) -> Group:
    """A plan: one row a section in order of generation, one column one or more latent frames."""
    event = plan.event()
    tokens = plan.schedule.tokens(plan.height, plan.width)
    lines = [
        Text(plan_line(event)),
        Text(f"order {plan.sections.order}, schedule {plan.sections.schedule}"),
        Text(f"{tokens.total:,} video tokens a section, {tokens.target:,} of them new"),
        Text(""),
        *_rows(plan.sections),
        Text(""),
        _legend(),
    ]
    return Group(*lines)


def _rows(plan: SectionPlan) -> list[Text]:
    length = plan.latent_frames + (plan.latent_frames in plan.given)
    per_column = -(-length // _WIDEST)
    rows: list[Text] = []
    known = set(plan.given)
    total = len(plan.sections)
    for section in plan.sections:
        if total <= _MOST_ROWS or section.index < _MOST_ROWS // 2 or section.index >= total - 4:
            rows.append(_row(section, known, length, per_column))
        elif section.index == _MOST_ROWS // 2:
            rows.append(Text(f"{'…':>6}   {total - _MOST_ROWS // 2 - 4} more sections"))
        known.update(section.frames)
    if per_column > 1:
        rows.append(Text(f"{'':6} one column is {per_column} latent frames", style="dim"))
    return rows


def _row(section: Section, known: set[int], length: int, per_column: int) -> Text:
    row = Text(f"{section.index + 1:>6} ▏")
    for start in range(0, length, per_column):
        mark, style = _MARKS[_state(section, known, range(start, start + per_column))]
        row.append(mark, style=style)
    row.append(f"▕ gap {section.gap}" if section.gap else "▕")
    return row


def _state(section: Section, known: set[int], frames: range) -> str:
    here = set(frames)
    for name, positions in (
        ("seen as anchor", set(section.anchors) & known),
        ("made now", set(section.frames)),
        ("seen as history", set(section.history) & known),
        ("made before", known),
    ):
        if here & positions:
            return name
    return "not made yet"


def _legend() -> Text:
    legend = Text("")
    for name, (mark, style) in _MARKS.items():
        if mark != " ":
            legend.append(f"  {mark} ", style=style)
            legend.append(name)
    return legend
