"""Page: what the page stands on, and who is looking at it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

import gradio as gr

from recurvid.errors import ComponentError, RecurVidError
from recurvid.gui.downloads import Downloads
from recurvid.gui.gate import Sessions
from recurvid.gui.machine import Machine
from recurvid.gui.presets import Presets
from recurvid.gui.sayings import problem
from recurvid.gui.theme import SCRIPT
from recurvid.gui.vision import Vision
from recurvid.gui.words import Language, language_for
from recurvid.jobs.failures import disk_is_full
from recurvid.jobs.store import JobStore

T = TypeVar("T")

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""For every event: nothing is offered as an API (that is the server's), nothing flickers."""

BUSY: dict[str, Any] = {**QUIET, "show_progress": "minimal"}
"""For events that take seconds."""


@dataclass(frozen=True)
class Page:
    """Everything that the panels use; one a process.

    Attributes:
        device: that jobs made here ask for.
        vision: the endpoint that writes prompts, if the server's owner has set one up.
    """

    store: JobStore
    sessions: Sessions
    presets: Presets
    downloads: Downloads
    machine: Machine
    vision: Vision | None = None
    device: str = "auto"

    def visitor(self, request: gr.Request) -> Visitor:
        """Who asks, and in which language.

        Raises:
            ComponentError: nobody who may.
        """
        owner = self.sessions.owner(request.headers, request.cookies)
        if owner is None:
            raise ComponentError("a key is needed; load the page again", "page.key")
        return Visitor(owner, language_for(request.headers.get("accept-language")))


@dataclass(frozen=True)
class Visitor:
    """Whose jobs are shown, and in which language."""

    owner: str
    language: Language


def panel(elem_id: str, value: str = "") -> gr.HTML:
    """HTML of ours whose buttons (``data-do``) raise the event "act"."""
    script = SCRIPT.read_text("utf-8")
    listen = "window.recurvidPanel(element, (name, data) => trigger('act', data));"
    return gr.HTML(
        value,
        elem_id=elem_id,
        elem_classes="rv-panel",
        js_on_load=f"{script}\n{listen}",
        apply_default_css=False,
        padding=False,
    )


def told(visitor: Visitor, work: Callable[[], T], otherwise: T) -> T:
    """The result of some work; what goes wrong on purpose is told to the user instead."""
    try:
        return work()
    except RecurVidError as error:
        warn(visitor, problem(visitor.language, error))
    except (OSError, sqlite3.Error) as error:
        if not disk_is_full(error):
            raise
        warn(visitor, visitor.language("error.disk_full"))
    return otherwise


def inform(visitor: Visitor, key: str, **values: Any) -> None:
    """Say for a moment that something is done."""
    gr.Info(escape(visitor.language(key, **values)), duration=4)


def warn(visitor: Visitor, text: str) -> None:
    """Say what is wrong, until it is closed or read."""
    gr.Warning(escape(text))
