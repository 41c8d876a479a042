"""The timeline of a job: which sections are done, running and to come, as HTML."""

from __future__ import annotations

from html import escape

from recurvid.gui.words import Language
from recurvid.jobs.states import Job, JobState


def timeline(job: Job, language: Language) -> str:
    """One bar a section where it lies in the video; its number is the order of making.

    Empty before the job is planned; without what explains it when the video is done.
    """
    plan = job.plan
    if plan is None or not plan.spans or not plan.frames:
        return ""
    bars = "".join(_bar(job, number, language) for number in range(len(plan.spans)))
    ends = "".join(
        f"<span>{escape(language('time.s', s=seconds))}</span>"
        for seconds in ("0", f"{plan.seconds:.1f}")
    )
    return (
        f'<section class="rv-timeline" aria-label="{escape(language("timeline"))}">'
        f'<div class="rv-track" role="list">{bars}</div><div class="rv-ends">{ends}</div>'
        f"{_explained(plan.order, language) if job.state is not JobState.DONE else ''}</section>"
    )


def _explained(order: str, language: Language) -> str:
    """What the colours mean, and why the sections are made in this order."""
    states = (("done", "done"), ("running", "running"), ("todo", "todo"))
    legend = "".join(
        f'<li><i class="rv-swatch rv-{name}"></i>{escape(language(f"timeline.{word}"))}</li>'
        for name, word in states
    )
    why = f"timeline.{order}"
    note = f"<p>{escape(language(why))}</p>" if why in language.words else ""
    return f'<ul class="rv-legend">{legend}</ul>{note}'


def state_of(job: Job, number: int) -> str:
    """One of "done", "running" and "todo", of a section by its number in the order of making."""
    progress = job.progress
    if job.state is JobState.DONE or number in progress.done_sections:
        return "done"
    return "running" if job.state is JobState.RUNNING and progress.section == number else "todo"


def _bar(job: Job, number: int, language: Language) -> str:
    assert job.plan is not None
    span, frames = job.plan.spans[number], job.plan.frames
    start, stop = min(span.start, frames), min(span.stop, frames)
    if span.start == min(other.start for other in job.plan.spans):
        start = 0  # the start picture itself is no section's work, and nothing is to come there
    state = state_of(job, number)
    title = language(
        "timeline.section",
        number=number + 1,
        start=f"{start / job.plan.fps:.1f}",
        stop=f"{stop / job.plan.fps:.1f}",
        state=language(f"timeline.{state}"),
    )
    filled = 100.0 if state == "done" else 0.0
    if state == "running" and job.progress.phase == "denoise" and job.progress.steps:
        filled = 100 * job.progress.step / job.progress.steps
    return (
        f'<div class="rv-section rv-{state}" role="listitem" title="{escape(title)}" '
        f'aria-label="{escape(title)}" style="left:{100 * start / frames:.3f}%;'
        f'width:{100 * (stop - start) / frames:.3f}%"><i style="width:{filled:.1f}%"></i>'
        f"<b>{number + 1}</b></div>"
    )
