"""The stage: the job that is shown large, with its preview, the video so far and its timeline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recurvid.errors import UnknownJobError
from recurvid.gui import sayings
from recurvid.gui.markup import badge, button, empty, is_stopping, link, resume
from recurvid.gui.media import address
from recurvid.gui.timeline import timeline
from recurvid.gui.words import Language, time_left
from recurvid.jobs.states import Job, JobState
from recurvid.jobs.store import JobStore


def shown_job(store: JobStore, owner: str, wanted: str) -> Job | None:
    """The job on the stage: the one that was asked for, or else the running or the next one.

    So a page that was loaded again, or a second one, shows what runs.
    """
    if wanted:
        try:
            return store.get(wanted, owner)
        except UnknownJobError:
            pass
    running = store.list(owner=owner, states=[JobState.RUNNING], limit=1)
    waiting = running or store.queue(owner)[:1]
    latest = waiting or store.list(owner=owner, limit=1)
    return latest[0] if latest else None


def stage(store: JobStore, job: Job | None, language: Language) -> str:
    """The stage as HTML."""
    queue = store.queue_state()
    warnings = [sayings.notice(language, text) for text in queue.notices]
    if queue.paused:
        warnings.append(language("queue.paused", reason=sayings.paused(language, queue.reason)))
    warning = "".join(
        f'<div class="rv-warning" role="alert">{escape(text)}</div>' for text in warnings
    )
    if job is None:
        return warning + empty(language("stage.empty.title"), language("stage.empty.text"))
    return (
        f'{warning}<article class="rv-stage" aria-label="{escape(job.title)}">'
        f"{_head(job, language)}{_pictures(store, job, language)}{_bar(store, job, language)}"
        f"{timeline(job, language)}{_actions(store, job, language)}</article>"
    )


def _head(job: Job, language: Language) -> str:
    facts: list[str] = []
    if job.plan:
        length = language("time.s", s=f"{job.plan.seconds:.1f}")
        facts = [f"{job.plan.width}×{job.plan.height}", length, f"{job.plan.fps:g} fps"]
    facts += [job.request.model, f"{language('field.seed')} {job.request.seed}"]
    prompt = job.request.prompt.strip()
    said = f'<p class="rv-prompt">{escape(prompt)}</p>' if prompt else ""
    return (
        f'<header><div class="rv-line"><h3>{escape(job.title)}</h3>{badge(language, job)}</div>'
        f'{said}<p class="rv-facts">{escape(" · ".join(facts))}</p></header>'
    )


def _pictures(store: JobStore, job: Job, language: Language) -> str:
    video = address(store, job, "video")
    if video:
        return f'<div class="rv-screens">{_video(video, [language("stage.result")], job)}</div>'
    preview = address(store, job, "preview") if job.state is JobState.RUNNING else None
    so_far = address(store, job, "so-far")
    screens = ""
    if so_far:
        total = job.plan.seconds if job.plan else job.request.seconds
        shown = job.progress.frames + job.progress.provisional
        made = shown / job.plan.fps if job.plan else 0.0
        length = language("stage.so_far.length", seconds=f"{made:.1f}", total=f"{total:.1f}")
        screens += _video(so_far, [language("stage.so_far"), length], job)
    if preview:
        lines = [language("stage.preview"), _step(job, language)]
        screens += _image(preview, lines, "rv-preview", job)
    elif not so_far:
        picture = address(store, job, "picture")
        screens += _image(picture or "", [language("picture")], "rv-still", job)
    return f'<div class="rv-screens">{screens}</div>'


def _video(source: str, lines: Sequence[str], job: Job) -> str:
    front = job.plan is not None and job.plan.order == "inverted"
    grows = "front" if front else "end"
    return (
        f'<figure class="rv-screen rv-film"><video src="{escape(source)}" data-grows="{grows}" '
        f"controls loop muted autoplay playsinline "
        f'preload="auto" aria-label="{escape(lines[0])}"{_shape(job)}></video>'
        f"{_caption(lines)}</figure>"
    )


def _image(source: str, lines: Sequence[str], kind: str, job: Job) -> str:
    return (
        f'<figure class="rv-screen {kind}"><img src="{escape(source)}" alt="{escape(lines[0])}"'
        f"{_shape(job)}>{_caption(lines)}</figure>"
    )


def _caption(lines: Sequence[str]) -> str:
    """A line each, so that numbers which grow longer break none and nothing below moves."""
    spans = "".join(f"<span>{escape(line)}</span>" for line in lines)
    return f"<figcaption>{spans}</figcaption>"


def _shape(job: Job) -> str:
    """Room for a picture before it has loaded, so that nothing below it jumps."""
    return f' style="aspect-ratio:{job.plan.width}/{job.plan.height}"' if job.plan else ""


def _step(job: Job, language: Language) -> str:
    progress = job.progress
    if progress.phase == "denoise" and progress.section is not None:
        return language(
            "stage.preview.section",
            section=progress.section + 1,
            sections=progress.sections or "?",
            step=progress.step,
            steps=progress.steps,
        )
    return language(f"phase.{progress.phase}")


def _bar(store: JobStore, job: Job, language: Language) -> str:
    if job.state.waits:
        waiting = [other.id for other in store.queue()]  # without it if it has begun meanwhile
        place = waiting.index(job.id) if job.id in waiting else 0
        first = place == 0
        text = language("stage.waits.first") if first else language("stage.waits", place=place + 1)
        return f'<p class="rv-note">{escape(text)}{_reason(job, language)}</p>'
    if job.state is JobState.RUNNING:
        left = job.progress.seconds_left
        time = language("time.unknown")
        if left is not None:
            time = language("time.left", time=time_left(language, left))
        phase = language(f"phase.{job.progress.phase}")
        percent = 100 * job.progress.fraction
        return (
            f'<div class="rv-progress"><div class="rv-line"><span>{escape(phase)}</span>'
            f"<span>{escape(time)}</span></div>"
            f'<div class="rv-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{percent:.0f}" aria-label="{escape(phase)}">'
            f'<i style="width:{percent:.1f}%"></i></div></div>'
        )
    if job.state is JobState.FAILED:
        return f'<p class="rv-warning" role="alert">{escape(sayings.failure(language, job))}</p>'
    if job.state is JobState.CANCELLED:
        return f'<p class="rv-note">{escape(language("kept"))}</p>'
    return ""


def _reason(job: Job, language: Language) -> str:
    return f" · {escape(sayings.failure(language, job))}" if job.error else ""


def _actions(store: JobStore, job: Job, language: Language) -> str:
    made: list[str] = []
    if job.state.is_active and not is_stopping(job):
        made.append(button(language, "cancel", job.id, look="rv-stop"))
    if job.state in (JobState.CANCELLED, JobState.FAILED) or is_stopping(job):
        made.append(resume(language, job))
    if source := address(store, job, "video"):
        made.append(link(language, "download", f"{source}&download"))
    elif source := address(store, job, "so-far"):
        made.append(link(language, "download_so_far", f"{source}&download"))
    made.append(button(language, "use", job.id))
    if job.state is JobState.DONE:
        made.append(button(language, "duplicate", job.id))
    return f'<footer class="rv-actions">{"".join(made)}</footer>'
