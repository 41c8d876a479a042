"""Small pieces of HTML that several panels are built from. Everything a user typed is escaped."""

from __future__ import annotations

from html import escape

from recurvid.gui.form import chosen
from recurvid.gui.words import Language
from recurvid.jobs.states import Job, JobState

_ICONS = {
    "up": "M12 19V5M5 12l7-7 7 7",
    "down": "M12 5v14M5 12l7 7 7-7",
    "edit": "M4 20h4L19 9l-4-4L4 16v4zM13 7l4 4",
    "duplicate": "M8 8h11v11H8zM5 16V5h11",
    "delete": "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
    "use": "M4 12a8 8 0 1 0 3-6.2M4 4v5h5",
    "download": "M12 4v11M7 11l5 5 5-5M5 20h14",
    "download_so_far": "M12 4v11M7 11l5 5 5-5M5 20h14",
    "cancel": "M6 6l12 12M18 6L6 18",
    "resume": "M7 5l12 7-12 7z",
    "show": "M3 12s3.5-6 9-6 9 6 9 6-3.5 6-9 6-9-6-9-6zM12 10a2 2 0 1 0 0 4 2 2 0 0 0 0-4",
    "copy": "M8 8h11v11H8zM5 16V5h11",
    "film": "M4 5h16v14H4zM8 5v14M16 5v14M4 10h4M4 14h4M16 10h4M16 14h4",
    "more": "M12 5v14M5 12h14",
}


def icon(name: str) -> str:
    """A line drawing of 24 by 24, in the colour of the text."""
    return (
        '<svg class="rv-icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">'
        f'<path d="{_ICONS[name]}"/></svg>'
    )


def button(
    language: Language,
    do: str,
    id: str,
    *,
    look: str = "",
    word: str = "",
    small: bool = False,
    off: bool = False,
) -> str:
    """A button that does something to a job; a small one shows its icon only.

    Args:
        word: what it is called, where that is not what it does.
    """
    text = language(f"do.{word or do}")
    hint = language("do.cancel.hint") if do == "cancel" else text
    sure = f' data-sure="{escape(language("do.delete.sure"))}"' if do == "delete" else ""
    shown = (
        f'<span class="rv-sr">{escape(text)}</span>' if small else f"<span>{escape(text)}</span>"
    )
    return (
        f'<button type="button" class="rv-button {look} {"rv-small" if small else ""}" '
        f'data-do="{do}" data-id="{escape(id)}" title="{escape(hint)}"{sure}'
        f"{' disabled' if off else ''}>{icon(do)}{shown}</button>"
    )


def link(language: Language, do: str, address: str) -> str:
    """A download that looks like a button."""
    text = escape(language(f"do.{do}"))
    return (
        f'<a class="rv-button" href="{escape(address)}" download title="{text}">{icon(do)}'
        f"<span>{text}</span></a>"
    )


def resume(language: Language, job: Job) -> str:
    """The button that goes on with a job, or tries it again."""
    word = "retry" if job.state is JobState.FAILED else ""
    return button(language, "resume", job.id, look="rv-go", word=word)


def badge(language: Language, job: Job) -> str:
    """The state of a job as a coloured word."""
    name = job.state.value
    text = language("state.cancelling") if is_stopping(job) else language(f"state.{name}")
    return f'<span class="rv-badge rv-{name}">{escape(text)}</span>'


def is_stopping(job: Job) -> bool:
    """Whether it runs and was asked to stop."""
    return job.state is JobState.RUNNING and job.cancelling


def settings_of(job: Job, language: Language) -> str:
    """What a job asks for beside the defaults, as a list of names and values."""
    rows = "".join(
        f"<dt>{escape(language(f'field.{name}'))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in {"seed": job.request.seed, **chosen(job.request)}.items()
        if name != "prompt"
    )
    return f'<dl class="rv-settings">{rows}</dl>'


def empty(title: str, text: str) -> str:
    """What a panel says while there is nothing to show."""
    return (
        f'<div class="rv-empty">{icon("film")}<h3>{escape(title)}</h3><p>{escape(text)}</p></div>'
    )
