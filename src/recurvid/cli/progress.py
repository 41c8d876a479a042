"""Events of a session as a person or a machine reads them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from recurvid import events
from recurvid.cli.output import Output

_PHASES = {
    "load": "loading the model",
    "encode": "reading prompt and picture",
    "decode": "decoding",
    "write": "writing the video",
}


def show(
    output: Output, run: Iterable[events.Event], finished_sections: int, remark: str = ""
) -> events.Finished:
    """Consume a session's events, showing each; returns the last one.

    Args:
        finished_sections: how many the session had when it started; they cost no time now.
        remark: what people are told together with the plan.
    """
    if output.as_json:
        return _as_json(output, run)
    return _as_bars(output, run, finished_sections, remark)


def event_record(event: events.Event) -> dict[str, Any]:
    """One event as a JSON object; pixels of previews are left out."""
    values = {spec.name: getattr(event, spec.name) for spec in fields(event)}
    values.pop("frames" if isinstance(event, events.Preview) else "", None)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    return {"event": _NAMES[type(event)], **plain}


_NAMES: dict[type, str] = {
    events.Planned: "planned",
    events.Progress: "progress",
    events.Preview: "preview",
    events.SectionDone: "section_done",
    events.Finished: "finished",
}


def _as_json(output: Output, run: Iterable[events.Event]) -> events.Finished:
    last: events.Event | None = None
    for last in run:
        output.record(event_record(last))
    assert isinstance(last, events.Finished)
    return last


def _as_bars(
    output: Output, run: Iterable[events.Event], finished_sections: int, remark: str
) -> events.Finished:
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=output.notes,
        transient=True,
        disable=output.quiet or not output.notes.is_terminal,
    )
    shown = _Shown(bars, finished_sections, remark)
    last: events.Event | None = None
    with bars:
        for last in run:
            shown.take(last)
    assert isinstance(last, events.Finished)
    return last


class _Shown:
    """The state of the bar: how far, and how long one step takes."""

    def __init__(self, bars: Progress, finished_sections: int, remark: str):
        self._bars = bars
        self._remark = f" ({remark})" if remark else ""
        self._done = finished_sections
        self._sections = 1
        self._task: TaskID = bars.add_task("starting", total=None, what="", left="")
        self._clock: float | None = None
        self._steps_timed = 0

    def take(self, event: events.Event) -> None:
        match event:
            case events.Planned():
                self._sections = event.sections
                self._say(plan_line(event) + self._remark)
                self._bars.update(self._task, total=float(event.sections))
                self._bars.update(self._task, completed=float(self._done))
            case events.Progress(phase="denoise"):
                self._step(event)
            case events.Progress():
                self._bars.update(self._task, description=_PHASES[event.phase])
            case events.SectionDone():
                self._done = max(self._done, event.section + 1)
                self._bars.update(self._task, completed=float(self._done))
                self._tell(event)
            case events.Preview() | events.Finished():
                pass

    def _tell(self, event: events.SectionDone) -> None:
        if not self._bars.console.is_terminal:  # where no bar is seen
            self._say(f"section {event.section + 1} of {event.sections} is done")
        if event.section == 0 and event.sections > 1:
            self._say(f"the video so far: {event.video}")

    def _say(self, text: str) -> None:
        # Through the bar's own console, which moves the bar out of the way.
        self._bars.console.print(text, markup=False)

    def _step(self, event: events.Progress) -> None:
        section = event.section or 0
        now = time.monotonic()
        if self._clock is None:
            # The first step warms caches up and would spoil the estimate.
            self._clock = now
        else:
            self._steps_timed += 1
        done = section + event.step / event.steps
        self._bars.update(
            self._task,
            completed=done,
            description=f"section {section + 1}/{self._sections}",
            what=f"step {event.step}/{event.steps}",
            left=self._time_left(now, (self._sections - done) * event.steps),
        )

    def _time_left(self, now: float, steps: float) -> str:
        if not self._steps_timed or self._clock is None:
            return ""
        return f"{in_words((now - self._clock) / self._steps_timed * steps)} left"


def plan_line(event: events.Planned) -> str:
    """What will be made, in one line."""
    sections = "section" if event.sections == 1 else "sections"
    return (
        f"{event.sections} {sections}, {event.frames} frames at {event.fps:g} fps = "
        f"{event.frames / event.fps:.2f} s, {event.width}x{event.height}"
    )


def in_words(seconds: float) -> str:
    """A duration for people: 47 s, 3 min 20 s, 2 h 5 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
