"""What the library says, in the visitor's language: its errors, reasons and failures of jobs.

A line that carries a key (:class:`recurvid.errors.Line`) is said in the words of the language;
any other is shown as it is, in English.
"""

from __future__ import annotations

from typing import Any

from recurvid.errors import Line, RecurVidError
from recurvid.gui.words import Language
from recurvid.jobs.states import Job

_SAYS_ALL = ("disk_full", "out_of_memory")
"""Sentences after which nothing is left to tell."""


def say(language: Language, line: str) -> str:
    """A line of the library."""
    sentence = language.words.get(f"error.{line.key}") if isinstance(line, Line) else None
    if not isinstance(line, Line) or sentence is None:
        return line
    values = {name: _named(language, name, value) for name, value in line.values.items()}
    try:
        return sentence.format(**values)
    except (KeyError, IndexError):
        return line


def problem(language: Language, error: RecurVidError) -> str:
    """An error, as a sentence."""
    return say(language, error.line)


def paused(language: Language, reason: str | None) -> str:
    """Why the queue takes no jobs; what only English can tell follows in brackets."""
    if not reason:
        return ""
    said = say(language, reason)
    if not isinstance(reason, Line) or reason.values or reason.key in _SAYS_ALL or said == reason:
        return said
    return _with(language, said, str(reason))


def notice(language: Language, text: str) -> str:
    """Something that is not as it should be while jobs are made all the same."""
    return text if language.code == "en" else _with(language, language("queue.notice"), text)


def failure(language: Language, job: Job) -> str:
    """Why a job failed or waits: what kind of failure it is, then what exactly was wrong.

    The second is in English, as it names files, numbers and parts of this machine.
    """
    kind = language.words.get(f"failure.{job.error_code}") or language.words.get(
        f"error.{job.error_code}"
    )
    if not job.error or kind is None or "{" in kind or language.code == "en":
        return job.error or ""
    return kind if job.error_code in _SAYS_ALL else _with(language, kind, job.error)


def _with(language: Language, said: str, detail: str) -> str:
    return language("detail", said=said, detail=detail)


def _named(language: Language, name: str, value: Any) -> Any:
    """The word for a value that has one: a field, a kind, a choice, a part of a plan."""
    groups = ("field", "how") if name == "field" else (name,)
    found = (language.words.get(f"{group}.{value}") for group in groups)
    return next((word for word in found if word is not None), value)
