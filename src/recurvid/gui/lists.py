"""The queue and the history as HTML."""

from __future__ import annotations

from html import escape

from recurvid.gui.markup import badge, button, empty, link, resume, settings_of
from recurvid.gui.media import address
from recurvid.gui.sayings import failure
from recurvid.gui.words import Language, duration
from recurvid.jobs.states import Job, JobState
from recurvid.jobs.store import JobStore

PAST = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


def queue(store: JobStore, owner: str, language: Language) -> str:
    """What runs and what waits, in the order in which it will be taken."""
    running = store.list(owner=owner, states=[JobState.RUNNING], newest_first=False)
    waiting = store.queue(owner)
    if not running and not waiting:
        return empty(language("queue.empty.title"), language("queue.empty.text"))
    rows = [_row(store, job, language, first=True, last=True) for job in running]
    # What was interrupted goes on first, whatever its place: only the others change places.
    movable = [job.id for job in waiting if job.state is JobState.QUEUED]
    for job in waiting:
        still = job.id not in movable
        first, last = still or job.id == movable[0], still or job.id == movable[-1]
        rows.append(_row(store, job, language, first=first, last=last))
    return f'<ol class="rv-queue">{"".join(rows)}</ol>'


def neighbour(store: JobStore, owner: str, id: str, do: str) -> str | None:
    """The job in front of which ``id`` goes when it moves "up" or "down"; None for the end."""
    ids = [job.id for job in store.queue(owner) if job.state is JobState.QUEUED]
    if id not in ids:
        return id
    place = ids.index(id)
    if do == "up":
        return ids[max(0, place - 1)]
    return ids[place + 2] if place + 2 < len(ids) else None


def history(store: JobStore, owner: str, language: Language, limit: int) -> str:
    """Cards of what is over, newest first; ``limit`` of them."""
    jobs = store.list(owner=owner, states=PAST, limit=limit + 1)
    if not jobs:
        return empty(language("history.empty.title"), language("history.empty.text"))
    cards = "".join(_card(store, job, language) for job in jobs[:limit])
    more = ""
    if len(jobs) > limit:
        more = f'<div class="rv-more">{button(language, "more", "")}</div>'
    return f'<div class="rv-gallery">{cards}</div>{more}'


def _row(store: JobStore, job: Job, language: Language, *, first: bool, last: bool) -> str:
    facts = [
        language("time.s", s=f"{job.request.seconds:g}"),
        job.request.model,
        f"{language('field.seed')} {job.request.seed}",
    ]
    runs = job.state is JobState.RUNNING
    fixed = runs or job.state is not JobState.QUEUED
    do = [
        button(language, "up", job.id, small=True, off=first),
        button(language, "down", job.id, small=True, off=last),
        button(language, "show", job.id),
        button(language, "edit", job.id, off=fixed or job.attempts > 0),
        button(language, "duplicate", job.id),
        button(language, "cancel", job.id, look="rv-stop", off=job.cancelling),
    ]
    if not runs:
        do[-1] = button(language, "delete", job.id, look="rv-stop")
    return (
        f'<li class="rv-row"><img src="{escape(address(store, job, "picture") or "")}" alt="" '
        f'loading="lazy"><div class="rv-what"><div class="rv-line"><h4>{escape(job.title)}</h4>'
        f'{badge(language, job)}</div><p class="rv-prompt">{escape(job.request.prompt)}</p>'
        f'<p class="rv-facts">{escape(" · ".join(facts))}</p></div>'
        f'<div class="rv-do">{"".join(do)}</div></li>'
    )


def _card(store: JobStore, job: Job, language: Language) -> str:
    video = address(store, job, "video") or address(store, job, "so-far")
    still = address(store, job, "thumbnail") or address(store, job, "picture") or ""
    if video:
        screen = (
            f'<video src="{escape(video)}" poster="{escape(still)}" controls loop muted '
            f'playsinline preload="none" aria-label="{escape(job.title)}"></video>'
        )
    else:
        screen = f'<img src="{escape(still)}" alt="{escape(job.title)}" loading="lazy">'
    facts: list[str] = []
    if job.plan:
        facts = [
            f"{job.plan.width}×{job.plan.height}",
            language("time.s", s=f"{job.plan.seconds:.1f}"),
        ]
    if job.state is JobState.DONE and job.started_at and job.finished_at:
        took = duration(language, job.finished_at - job.started_at)
        facts.append(language("history.made", time=took))
    error = f'<p class="rv-warning">{escape(failure(language, job))}</p>' if job.error else ""
    do = [button(language, "show", job.id), button(language, "use", job.id)]
    if job.state is not JobState.DONE:
        do.insert(0, resume(language, job))
    if video:
        name = "download" if job.state is JobState.DONE else "download_so_far"
        do.append(link(language, name, f"{video}&download"))
    do.append(button(language, "delete", job.id, look="rv-stop"))
    return (
        f'<article class="rv-card"><div class="rv-thumb">{screen}</div><div class="rv-line">'
        f"<h4>{escape(job.title)}</h4>{badge(language, job)}</div>"
        f'<p class="rv-prompt">{escape(job.request.prompt)}</p>'
        f'<p class="rv-facts">{escape(" · ".join(facts))}</p>{error}'
        f"<details><summary>{escape(language('history.request'))}</summary>"
        f"{settings_of(job, language)}</details>"
        f'<div class="rv-actions">{"".join(do)}</div></article>'
    )
