"""The page: its tabs, and what happens on it.

State lives in the store. A session keeps only what it looks at: the job on its stage, the job it
edits, how much of the history it wants to see. A timer asks the store once a second and sends the
panels that have changed, so any number of pages show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from recurvid.gui import create_tab, lists, models_panel, stage
from recurvid.gui.actions import listen
from recurvid.gui.batch_box import build as build_batch
from recurvid.gui.how_form import kernel_choices
from recurvid.gui.models_tab import build as build_models
from recurvid.gui.page import Page, Visitor, panel
from recurvid.gui.tabs import Tabs
from recurvid.gui.words import word
from recurvid.jobs.states import JobState

HISTORY_PAGE = 24
_SECONDS = 1.0
_HOUR, _DAY = 3600, 86_400
_LOGO = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><rect width="48" height="48" rx="13" '
    'fill="#0c8079"/><g fill="none" stroke="white" stroke-linecap="round">'
    '<path d="M10 31c5-14 11-14 15-5s8 8 13-8" stroke-width="3.4"/>'
    '<path d="M10 38h6M21 38h9M35 38h3" stroke-width="3" opacity=".75"/></g></svg>'
)
_DARK = (
    '<svg class="rv-icon" viewBox="0 0 24 24" aria-hidden="true"><path d="M12 4a8 8 0 1 0 8 8'
    'M12 4v16M12 4a8 8 0 0 1 8 8"/></svg>'
)


@dataclass(frozen=True)
class Look:
    """What a session looks at.

    Attributes:
        shown: job on the stage, "" for the running one.
        asked: model whose licences are read.
        limit: cards of the history.
    """

    shown: str
    asked: str
    limit: int


def build(page: Page) -> gr.Blocks:
    """The page as Gradio blocks, not yet served."""
    with gr.Blocks(title="RecurVid", analytics_enabled=False, delete_cache=(_HOUR, _DAY)) as blocks:
        header = panel("header")
        with gr.Tabs(selected="create") as tabs:
            with gr.Tab(word("tab.create"), id="create"):
                create = create_tab.build(page)
            with gr.Tab(word("tab.queue"), id="queue"):
                queue = panel("queue")
                batch = build_batch()
            with gr.Tab(word("tab.history"), id="history"):
                history = panel("history")
            with gr.Tab(word("tab.models"), id="models") as models_tab:
                models = build_models(page)
        everything = Tabs(
            tabs, header, create, queue, batch, history, models_tab, models,
            shown=gr.State(""), editing=gr.State(""), asked=gr.State(""),
            limit=gr.State(HISTORY_PAGE), seen=gr.State({}),
        )  # fmt: skip
        _keep_fresh(page, everything)
        listen(page, everything)
    return blocks


def _keep_fresh(page: Page, tabs: Tabs) -> None:
    timer = gr.Timer(_SECONDS)
    looks = [tabs.shown, tabs.asked, tabs.limit, tabs.seen]
    attention = tabs.create.how[0]
    panels = [tabs.header, tabs.create.stage, tabs.queue, tabs.history, tabs.models.cards,
              tabs.models.kernels, attention, tabs.seen]  # fmt: skip

    def fresh(
        shown: str, asked: str, limit: int, seen: dict[str, Any], request: gr.Request
    ) -> list[Any]:
        visitor = page.visitor(request)
        made = drawn(page, visitor, Look(shown, asked, limit))
        known = page.machine.kernels()
        updates: list[Any] = [
            gr.skip() if seen.get(name) == html else html for name, html in made.items()
        ]
        new = known and seen.get("known") != known
        updates.append(
            gr.update(choices=kernel_choices(known, visitor.language)) if new else gr.skip()
        )
        same = all(seen.get(name) == html for name, html in made.items()) and not new
        return [*updates, gr.skip() if same else {**made, "known": known}]

    timer.tick(fresh, looks, panels, queue=False, trigger_mode="once", api_visibility="private")


def drawn(page: Page, visitor: Visitor, look: Look) -> dict[str, str]:
    """Every panel that the timer keeps fresh, as HTML, by name."""
    store, owner, language = page.store, visitor.owner, visitor.language
    job = stage.shown_job(store, owner, look.shown)
    return {
        "header": head(page, visitor),
        "stage": stage.stage(store, job, language),
        "queue": lists.queue(store, owner, language),
        "history": lists.history(store, owner, language, look.limit),
        "models": models_panel.models(page.downloads, look.asked, language),
        "kernels": models_panel.kernels(page.machine, language),
    }


def head(page: Page, visitor: Visitor) -> str:
    """The head of the page: name, and whether something is being made."""
    language, store = visitor.language, page.store
    running = store.list(owner=visitor.owner, states=[JobState.RUNNING], limit=1)
    waiting = len(store.queue(visitor.owner))
    look, text = "", language("idle")
    if store.queue_state().paused:
        look, text = "rv-halt", language("halted")
    elif running:
        look, text = "rv-busy", language("busy")
    if waiting:
        text += f" · {language('queue.count', n=waiting)}"
    theme = escape(language("light_dark"))
    return (
        f'<div class="rv-header">{_LOGO}<div><h1>RecurVid</h1>'
        f"<p>{escape(language('tagline'))}</p></div>"
        f'<span class="rv-pill {look}" role="status">{escape(text)}</span>'
        f'<button type="button" class="rv-button rv-small" data-dark="1" title="{theme}">{_DARK}'
        f'<span class="rv-sr">{theme}</span></button></div>'
    )
